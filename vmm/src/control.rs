//! What the control interface does with a microVM: the other side of [`api`](crate::api)'s traits.
//!
//! ```text
//! main thread                                  API's thread
//! Handover::wait <------- Handover ----------- Launcher::launch       the microVM starts
//! Running::wait, the event loop                RunningVm              handles, devices, memory
//! ```
//!
//! The API's thread starts a microVM, since it is the one that is asked; the main thread runs its devices and waits for
//! its end.

mod clock;
mod handover;
mod launch;
mod memory;
mod metrics;
mod running;

pub use handover::{Handover, HandoverError};
pub use launch::{LaunchError, LaunchOptions, Launcher};
pub use memory::MemoryControl;
