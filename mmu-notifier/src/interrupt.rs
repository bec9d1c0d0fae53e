//! Asking a thread that takes many locks to give up.

use std::time::Duration;

use crate::sync::{
    atomic::{AtomicBool, Ordering},
    const_unless_loom,
};

/// How often a thread that sleeps with a token looks at it.
///
/// A signal handler may not notify a condition variable, so nothing wakes the sleeper when the token is set: it has
/// to look for itself. At most one thread of an address space sleeps with a token (it wants the mmap_lock or has it
/// for writing), and 500 looks a second of such a thread cost less than anybody can measure.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A flag that asks [`take_all_locks`](crate::take_all_locks) to give up.
///
/// Any thread may set it, and so may a signal handler: [`interrupt`](Self::interrupt) is one atomic store. The taker
/// looks before each lock, and every two milliseconds while it sleeps for one. The flag orders nothing else.
#[derive(Debug)]
pub struct InterruptToken(AtomicBool);

/// What was asked to give up did: an [`InterruptToken`] was set. Everything is as before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted while taking locks; none of them is held")]
pub struct Interrupted;

impl InterruptToken {
    const_unless_loom! {
        /// A token that is not set.
        #[must_use]
        pub fn new() -> Self {
            Self(AtomicBool::new(false))
        }
    }

    /// Sets the token. Async-signal-safe.
    pub fn interrupt(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Clears the token, so that it serves for another call.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether the token is set.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error if the token is set.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.is_interrupted() { Err(Interrupted) } else { Ok(()) }
    }
}

impl Default for InterruptToken {
    fn default() -> Self {
        Self::new()
    }
}
