//! The file or FIFO that metrics are written to, a line of JSON at a time.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, json};

use super::{MetricSet, Value};
use crate::{
    api::schema::{InstanceId, MetricsConfig},
    append::AppendFile,
};

/// Writes lines.
#[derive(Debug)]
pub(in crate::api) struct MetricsWriter {
    path: PathBuf,
    file: AppendFile,
    id: Option<InstanceId>,
    properties: Option<BTreeMap<String, String>>,
    /// What each counter was in the line before.
    written: HashMap<(String, &'static str), u64>,
    /// Lines for which a FIFO had no room.
    missed: u64,
}

impl MetricsWriter {
    /// Opens the file, or makes it. A FIFO is never waited for: neither for a reader nor for room.
    pub(in crate::api) fn open(config: &MetricsConfig, id: &InstanceId) -> io::Result<Self> {
        Ok(Self {
            path: config.metrics_path.clone(),
            file: AppendFile::open(&config.metrics_path)?,
            id: config.emit_id.then(|| id.clone()),
            properties: config.properties.clone(),
            written: HashMap::new(),
            missed: 0,
        })
    }

    /// Where lines are written to.
    pub(in crate::api) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a line: what was counted since the line before, and what is now.
    pub(in crate::api) fn write(&mut self, metrics: &MetricSet) -> io::Result<()> {
        let mut line = self.line(metrics).to_string();
        line.push('\n');
        match (&self.file).write_all(line.as_bytes()) {
            // Nobody reads the FIFO: the next line tells.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.missed += 1;
                Ok(())
            }
            written => written,
        }
    }

    fn line(&mut self, metrics: &MetricSet) -> serde_json::Value {
        let mut line = Map::new();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        line.insert("utc_timestamp_ms".to_owned(), json!(u64::try_from(now.as_millis()).unwrap_or(u64::MAX)));
        if let Some(id) = &self.id {
            line.insert("id".to_owned(), json!(id));
        }
        if let Some(properties) = &self.properties {
            line.insert("properties".to_owned(), json!(properties));
        }
        line.insert("logger".to_owned(), json!({ "missed_metrics_count": self.missed }));
        for group in &metrics.groups {
            let key =
                group.id.as_ref().map_or_else(|| group.name.to_owned(), |id| format!("{}_{id}", group.name));
            for &(name, value) in &group.values {
                let number = match value {
                    Value::Gauge(number) => number,
                    Value::Counter(count) => {
                        let before = self.written.insert((key.clone(), name), count).unwrap_or(0);
                        count.saturating_sub(before)
                    }
                };
                add(&mut line, &key, name, number);
                // All drives together are `block`, all interfaces `net`.
                if group.id.is_some() {
                    add(&mut line, group.name, name, number);
                }
            }
        }
        line.into()
    }
}

/// Adds `number` to what the line has by that name.
fn add(line: &mut Map<String, serde_json::Value>, group: &str, name: &str, number: u64) {
    let group = line.entry(group).or_insert_with(|| json!({}));
    let before = group[name].as_u64().unwrap_or(0);
    group[name] = json!(before + number);
}
