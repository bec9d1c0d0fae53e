//! `/metrics`.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{Refused, check_appendable};

/// The body of PUT /metrics.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsConfig {
    /// The file or FIFO that a line of JSON is appended to once a minute, on FlushMetrics, and at the end.
    pub metrics_path: PathBuf,
    /// Whether each line has the microVM's id.
    #[serde(default)]
    pub emit_id: bool,
    /// What each line has beside the metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub properties: Option<BTreeMap<String, String>>,
}

impl MetricsConfig {
    pub(crate) fn check(&self) -> Result<(), Refused> {
        check_appendable("metrics_path", &self.metrics_path)
    }
}
