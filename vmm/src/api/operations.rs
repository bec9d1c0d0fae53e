//! What the control interface needs of the rest of the monitor.

use std::{error::Error, fmt};

use mmu_notifier::AddressRange;

use super::{
    VmConfig,
    metrics::MetricSet,
    schema::{
        BalloonHintingStatus, BalloonStatistics, Discarded, DriveUpdate, MemoryPolicy, MemoryReport, Refused,
    },
};

/// Starts the microVM that was configured.
pub trait Launch: Send {
    /// Makes it and lets it run.
    ///
    /// # Errors
    /// Why it does not run. Nothing of it is left then: the configuration can be mended, and this called again.
    fn launch(&mut self, config: &VmConfig) -> Result<Box<dyn Operations>, OperationError>;
}

/// What can be done with a microVM that has started.
///
/// All of it is asked for by one thread, one thing after another.
pub trait Operations: Send {
    /// Stops every vCPU; returns when none runs.
    ///
    /// # Errors
    /// [`OperationError::Failed`].
    fn pause(&mut self) -> Result<(), OperationError>;

    /// Lets the vCPUs go on.
    ///
    /// # Errors
    /// [`OperationError::Failed`].
    fn resume(&mut self) -> Result<(), OperationError>;

    /// Presses Ctrl, Alt and Del on the guest's keyboard.
    ///
    /// # Errors
    /// [`OperationError::Unsupported`] if it has none.
    fn send_ctrl_alt_del(&mut self) -> Result<(), OperationError>;

    /// Tells the balloon how much to hold, in MiB; it is known to have one.
    ///
    /// # Errors
    /// [`OperationError::Failed`].
    fn set_balloon(&mut self, amount_mib: u32) -> Result<(), OperationError>;

    /// What the balloon holds and what the guest last told; statistics are known to be on.
    ///
    /// # Errors
    /// [`OperationError::Failed`].
    fn balloon_statistics(&mut self) -> Result<BalloonStatistics, OperationError>;

    /// How often the guest is to tell, in seconds, from now on; statistics are known to be on.
    ///
    /// # Errors
    /// [`OperationError::Failed`].
    fn set_balloon_interval(&mut self, seconds: u16) -> Result<(), OperationError>;

    /// Asks the guest which pages are free; hinting is known to be on.
    ///
    /// # Errors
    /// [`OperationError::Failed`].
    fn start_hinting(&mut self, acknowledge_on_stop: bool) -> Result<(), OperationError>;

    /// Tells the guest that its pages are its own again; hinting is known to be on.
    ///
    /// # Errors
    /// [`OperationError::Failed`].
    fn stop_hinting(&mut self) -> Result<(), OperationError>;

    /// How far that is; hinting is known to be on.
    ///
    /// # Errors
    /// [`OperationError::Failed`].
    fn hinting_status(&mut self) -> Result<BalloonHintingStatus, OperationError>;

    /// Opens the file of a drive again, or another; the drive is known to exist.
    ///
    /// # Errors
    /// [`OperationError::Failed`]; the drive is as it was then.
    fn update_drive(&mut self, update: &DriveUpdate) -> Result<(), OperationError>;

    /// How much of guest RAM is there, and how it came to be.
    ///
    /// # Errors
    /// [`OperationError::Failed`].
    fn memory(&mut self) -> Result<MemoryReport, OperationError>;

    /// Changes what is asked for in a range of guest RAM.
    ///
    /// # Errors
    /// [`OperationError::Unsupported`] where the kernel resolves the faults.
    fn set_policy(&mut self, policy: &MemoryPolicy) -> Result<(), OperationError>;

    /// Takes the pages of a range away from the guest.
    ///
    /// # Errors
    /// [`OperationError::Failed`].
    fn discard(&mut self, range: AddressRange) -> Result<Discarded, OperationError>;

    /// Adds what it counted to `metrics`.
    fn metrics(&mut self, metrics: &mut MetricSet);
}

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// A value cannot be taken.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// This microVM cannot do that at all.
    #[error("{0}")]
    Unsupported(String),
    /// It was tried and failed.
    #[error("{}", Chain(&**.0))]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}

impl OperationError {
    /// Because of `error`.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }
}

/// An error with its causes, in one line.
struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut said = self.0.to_string();
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some errors repeat their cause.
            if !said.contains(&text) {
                write!(f, ": {text}")?;
            }
            said = text;
            next = cause.source();
        }
        Ok(())
    }
}
