//! What stands behind the routes: a microVM that is being configured, or one that has started.

mod balloon;
mod devices;
mod memory;
mod observing;
mod start;

pub use start::StartError;

use super::{
    Configuration, VmConfig,
    fault::Fault,
    metrics::{MetricsWriter, Requests},
    operations::{Launch, Operations},
    routes::Answer,
    schema::{
        Action, ActionType, BootSource, InstanceId, InstanceInfo, MachineConfig, MachineConfigUpdate,
        Version, Vm, VmChange, VmState,
    },
};

/// The version of Firecracker whose API this is.
pub const FIRECRACKER_VERSION: &str = "1.17.0";

/// One microVM and its configuration. Lives on the API's thread.
pub struct Controller {
    id: InstanceId,
    /// What was configured; after the start, what is.
    configuration: Configuration,
    phase: Phase,
    launch: Box<dyn Launch>,
    metrics: Option<MetricsWriter>,
    requests: Requests,
}

/// How far the microVM is.
enum Phase {
    Configuring,
    Running(Box<dyn Operations>),
    Paused(Box<dyn Operations>),
}

impl Controller {
    /// For a microVM of this name that is not configured yet, or only so far.
    #[must_use]
    pub fn new(id: InstanceId, configuration: Configuration, launch: Box<dyn Launch>) -> Self {
        Self {
            id,
            configuration,
            phase: Phase::Configuring,
            launch,
            metrics: None,
            requests: Requests::default(),
        }
    }

    pub(super) fn instance_info(&self) -> InstanceInfo {
        let state = match self.phase {
            Phase::Configuring => VmState::NotStarted,
            Phase::Running(_) => VmState::Running,
            Phase::Paused(_) => VmState::Paused,
        };
        let (vmm_version, app_name) = (env!("CARGO_PKG_VERSION"), "underlay");
        InstanceInfo { id: self.id.clone(), state, vmm_version, app_name }
    }

    pub(super) const fn version() -> Version {
        Version { firecracker_version: FIRECRACKER_VERSION }
    }

    pub(super) const fn config(&self) -> &VmConfig {
        self.configuration.config()
    }

    pub(super) fn act(&mut self, action: Action) -> Result<Answer, Fault> {
        match action.action_type {
            ActionType::InstanceStart => self.start()?,
            ActionType::SendCtrlAltDel => self.started("SendCtrlAltDel")?.send_ctrl_alt_del()?,
            ActionType::FlushMetrics => self.flush_metrics()?,
        }
        Ok(Answer::Done)
    }

    /// Pausing one that is paused, or resuming one that runs, does nothing.
    pub(super) fn change_vm(&mut self, vm: Vm) -> Result<Answer, Fault> {
        let machine = self.started("a change of state")?;
        match vm.state {
            VmChange::Paused => machine.pause()?,
            VmChange::Resumed => machine.resume()?,
        }
        self.phase = match (std::mem::replace(&mut self.phase, Phase::Configuring), vm.state) {
            (Phase::Running(machine) | Phase::Paused(machine), VmChange::Paused) => Phase::Paused(machine),
            (Phase::Running(machine) | Phase::Paused(machine), VmChange::Resumed) => Phase::Running(machine),
            (Phase::Configuring, _) => Phase::Configuring,
        };
        Ok(Answer::Done)
    }

    pub(super) fn put_boot_source(&mut self, source: BootSource) -> Result<Answer, Fault> {
        self.before_start("the boot source")?.set_boot_source(source)?;
        Ok(Answer::Done)
    }

    pub(super) fn put_machine_config(&mut self, machine: MachineConfig) -> Result<Answer, Fault> {
        self.before_start("the machine configuration")?.set_machine_config(machine)?;
        Ok(Answer::Done)
    }

    pub(super) fn patch_machine_config(&mut self, update: MachineConfigUpdate) -> Result<Answer, Fault> {
        self.before_start("the machine configuration")?.update_machine_config(update)?;
        Ok(Answer::Done)
    }

    /// The configuration, while it may be changed.
    fn before_start(&mut self, what: &'static str) -> Result<&mut Configuration, Fault> {
        match self.phase {
            Phase::Configuring => Ok(&mut self.configuration),
            Phase::Running(_) | Phase::Paused(_) => Err(Fault::AfterStart(what)),
        }
    }

    /// The microVM, once it is there.
    fn started(&mut self, what: &'static str) -> Result<&mut dyn Operations, Fault> {
        match &mut self.phase {
            Phase::Configuring => Err(Fault::BeforeStart(what)),
            Phase::Running(machine) | Phase::Paused(machine) => Ok(&mut **machine),
        }
    }
}

/// Whether the path and the body name the same thing.
fn check_same_id(field: &'static str, path: &str, body: &str) -> Result<(), Fault> {
    if path == body {
        return Ok(());
    }
    Err(Fault::OtherId { field, path: path.to_owned(), body: body.to_owned() })
}
