//! The text that Prometheus and its kin read.

use std::{collections::BTreeSet, fmt::Write};

use super::{Group, MetricSet, Value};

/// What every family's name begins with.
const PREFIX: &str = "underlay";

/// `metrics` as OpenMetrics 1.0 has it: one family for each number of each group, with the label `id` where there are
/// several.
pub(in crate::api) fn open_metrics(metrics: &MetricSet) -> String {
    let mut text = String::new();
    let mut seen = BTreeSet::new();
    for group in &metrics.groups {
        for (name, value) in &group.values {
            // The samples of a family stand together: those of all groups, where its first is.
            if seen.insert((group.name, *name)) {
                family(&mut text, metrics, group.name, name, *value);
            }
        }
    }
    text.push_str("# EOF\n");
    text
}

fn family(text: &mut String, metrics: &MetricSet, group: &str, name: &str, kind: Value) {
    let family = format!("{PREFIX}_{group}_{name}");
    let (kind, suffix) = match kind {
        Value::Counter(_) => ("counter", "_total"),
        Value::Gauge(_) => ("gauge", ""),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# TYPE {family} {kind}");
    for (id, value) in
        metrics.groups.iter().filter(|other| other.name == group).filter_map(|group| value(group, name))
    {
        let labels = id.map_or_else(String::new, |id| format!("{{id=\"{}\"}}", escaped(id)));
        let _ = writeln!(text, "{family}{suffix}{labels} {value}");
    }
}

fn value<'a>(group: &'a Group, name: &str) -> Option<(Option<&'a str>, u64)> {
    let (_, value) = group.values.iter().find(|(other, _)| *other == name)?;
    let (Value::Counter(number) | Value::Gauge(number)) = *value;
    Some((group.id.as_deref(), number))
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
