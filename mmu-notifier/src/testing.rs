//! For tests, one's own or this crate's: subscribers that stand beside the one under test, a harness that looks for a
//! stale use, and an address space of nothing but locks, to try an engine on.
//!
//! The page "Notifier integration tests" beside the crate's README shows how they go together.

mod harness;
mod locked_vmas;
mod space;
mod subscribers;

pub use harness::{Device, Harness, Report};
pub use locked_vmas::{LockedVma, LockedVmas};
pub use space::{FrameState, StaleUse, TestSpace, Translation};
pub use subscribers::{Call, Recorder, Refuser, Slow};
