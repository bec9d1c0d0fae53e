//! For the tests of a subscriber, one's own or this crate's: subscribers that stand beside it, and a harness that looks
//! for a stale use.
//!
//! The page "Notifier integration tests" beside the crate's README shows how they go together.

mod harness;
mod space;
mod subscribers;

pub use harness::{Device, Harness, Report};
pub use space::{FrameState, StaleUse, TestSpace, Translation};
pub use subscribers::{Call, Recorder, Refuser, Slow};
