//! What a balloon is to be, and what it and its guest tell.

use std::time::Duration;

/// What a balloon is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalloonConfig {
    /// How much of its memory the guest is to give up from the start, in MiB.
    pub amount_mib: u32,
    /// The guest may take memory back before it kills processes for want of it.
    pub deflate_on_oom: bool,
    /// How often the guest is to tell about its memory; never if `None`, and then it cannot be switched on later.
    pub stats_interval: Option<Duration>,
    /// The guest reports what it has freed, and that is taken away until it is touched again.
    pub free_page_reporting: bool,
    /// The host may ask which pages are free, and takes them away.
    ///
    /// Linux takes hinted pages back without asking when it runs short of memory in the middle of a run; what it
    /// writes there then may be lost. Only for a guest with memory to spare.
    pub free_page_hinting: bool,
}

/// Why the balloon does not do what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BalloonError {
    /// It would hold more than there is.
    #[error("a balloon of {amount_mib} MiB is larger than the guest's memory of {ram_mib} MiB")]
    TooLarge {
        /// What was asked for.
        amount_mib: u32,
        /// What the guest has.
        ram_mib: u64,
    },
    /// Statistics were off when the microVM was made.
    #[error("the balloon has no statistics: give it an interval before the microVM starts")]
    NoStats,
    /// Hinting was off when the microVM was made.
    #[error("the balloon has no free page hinting: switch it on before the microVM starts")]
    NoHinting,
    /// The guest has no driver, or one that does not do it.
    #[error("the guest's driver does not take part")]
    NoDriver,
    /// The kernel did not make or set the timer.
    #[error("cannot have a timer for the statistics")]
    Timer(#[source] nix::errno::Errno),
}

/// What a balloon has done, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalloonCounters {
    /// Pages of 4 KiB that the guest put into it.
    pub inflated_pages: u64,
    /// Pages of 4 KiB that the guest took out of it.
    pub deflated_pages: u64,
    /// Bytes of the balloon that were taken away.
    pub discarded_bytes: u64,
    /// Bytes that were taken away because the guest reported them free.
    pub reported_bytes: u64,
    /// Bytes that were taken away because the guest hinted that they are free.
    pub hinted_bytes: u64,
    /// Discards that failed.
    pub failed_discards: u64,
    /// Pages that the guest named and does not have.
    pub strange_pages: u64,
    /// Times that the guest told about its memory.
    pub stats_updates: u64,
    /// Requests that were malformed.
    pub malformed: u64,
}
