//! `/actions`.

use serde::Deserialize;

/// The body of PUT /actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// What is to be done.
    pub action_type: ActionType,
}

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum ActionType {
    /// Write the metrics now.
    FlushMetrics,
    /// Start the microVM.
    InstanceStart,
    /// Press Ctrl, Alt and Del on its keyboard.
    SendCtrlAltDel,
}
