//! What was counted: lines of JSON as Firecracker writes them, and the text of OpenMetrics.
//!
//! Both show one [`MetricSet`], which is collected when it is asked for; nothing is kept but what was written last, as
//! counts in a line of JSON are those since the line before.

mod open_metrics;
mod requests;
mod writer;

pub(super) use open_metrics::open_metrics;
pub(super) use requests::Requests;
pub(super) use writer::MetricsWriter;

/// Everything that was counted, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricSet {
    groups: Vec<Group>,
}

/// What one part of the monitor counted: `block` of the drive `rootfs`, say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    name: &'static str,
    id: Option<String>,
    values: Vec<(&'static str, Value)>,
}

/// One number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// It only grows.
    Counter(u64),
    /// It is what it is now.
    Gauge(u64),
}

impl MetricSet {
    /// Begins the group of a part of which there is one. Names are lower case with underscores, and have their units.
    pub fn group(&mut self, name: &'static str) -> &mut Group {
        self.push(Group { name, id: None, values: Vec::new() })
    }

    /// Begins the group of a part of which there are several, the one called `id`. All of a name are begun one after
    /// another.
    pub fn group_of(&mut self, name: &'static str, id: impl Into<String>) -> &mut Group {
        self.push(Group { name, id: Some(id.into()), values: Vec::new() })
    }

    fn push(&mut self, group: Group) -> &mut Group {
        self.groups.push(group);
        let last = self.groups.len() - 1;
        &mut self.groups[last]
    }
}

impl Group {
    /// Adds a number that only grows.
    pub fn counter(&mut self, name: &'static str, count: u64) -> &mut Self {
        self.values.push((name, Value::Counter(count)));
        self
    }

    /// Adds a number that goes up and down.
    pub fn gauge(&mut self, name: &'static str, value: u64) -> &mut Self {
        self.values.push((name, Value::Gauge(value)));
        self
    }
}

#[cfg(test)]
mod tests;
