//! `/vm`.

use serde::{Deserialize, Serialize};

/// The body of PATCH /vm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    /// What the microVM is to do.
    pub state: VmChange,
}

/// What a microVM can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum VmChange {
    /// Its vCPUs stop.
    Paused,
    /// They go on.
    Resumed,
}

/// What a microVM does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum VmState {
    /// It is being configured.
    #[serde(rename = "Not started")]
    NotStarted,
    /// Its vCPUs run.
    Running,
    /// They do not.
    Paused,
}
