//! Sleeping until a word changes, at no cost to whoever changes it when nobody sleeps.

use crate::sync::{Condvar, Mutex, lock, wait};

/// Where threads sleep until a word that somebody else changes has changed.
///
/// The word has a bit that says "someone waits". A sleeper sets it under the lock and goes to sleep under the same
/// lock; whoever changes the word takes the bit with it in the same read-modify-write and, if it was set, calls
/// [`wake`](Self::wake). So a change is either seen by the sleeper when it sets the bit, or sees the bit.
#[derive(Debug, Default)]
pub(crate) struct Parking {
    /// A leaf: nothing is taken and no callback runs under it.
    lock: Mutex<()>,
    changed: Condvar,
}

impl Parking {
    /// Sleeps until `must_wait` says no. It is called under the lock; each time it says yes it must have left the
    /// waiting bit set in the word it looked at.
    pub(crate) fn wait_while(&self, mut must_wait: impl FnMut() -> bool) {
        let mut guard = lock(&self.lock);
        while must_wait() {
            if cfg!(tsan) {
                // Relocked where the sanitizer sees it.
                drop(guard);
                crate::sync::thread::yield_now();
                guard = lock(&self.lock);
            } else {
                guard = wait(&self.changed, guard);
            }
        }
    }

    /// Wakes every sleeper to look again. Called by who changed a word and found the waiting bit in it.
    #[cold]
    pub(crate) fn wake(&self) {
        // Through the lock, so that a sleeper that has set the bit is asleep and not on its way there.
        drop(lock(&self.lock));
        self.changed.notify_all();
    }
}
