//! What a handler has read and not resolved: what is woken when it cannot go on.

use mmu_notifier::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};

/// Events that a handler reads at a time.
pub(super) const BATCH: usize = 16;

/// No event: no host address of a window is zero.
const NONE: u64 = 0;

/// The host addresses of a handler's unresolved events. Written by the handler, read by whoever replaces it.
#[derive(Debug, Default)]
pub(super) struct Record([AtomicU64; BATCH]);

impl Record {
    /// Notes that the event in place `at` of the batch, of the host address `address`, was read.
    pub(super) fn note(&self, at: usize, address: u64) {
        // Release: pairs with `unresolved`.
        self.0[at].store(address, Release);
    }

    /// The event in place `at` is resolved, or somebody else sees to it.
    pub(super) fn strike(&self, at: usize) {
        // Release: pairs with `unresolved`. An event that is struck off too late is woken once too often.
        self.0[at].store(NONE, Release);
    }

    /// The host addresses of the events that are not resolved.
    pub(super) fn unresolved(&self) -> impl Iterator<Item = u64> + '_ {
        // Acquire: pairs with `note` and `strike`.
        self.0.iter().map(|address| address.load(Acquire)).filter(|address| *address != NONE)
    }
}
