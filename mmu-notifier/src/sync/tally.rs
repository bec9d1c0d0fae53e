//! Numbers that are only ever reported.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A 64-bit number that orders nothing and decides nothing: a count, a maximum, the identity of a holder.
///
/// It is `std`'s atomic under loom as well: since nothing depends on how stale it is read, exploring its staleness
/// would cost a model time and find nothing.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// A tally of zero.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The number as some thread last left it.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Sets the number.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Adds one, where one thread at a time may: a plain load and store, no locked instruction.
    #[inline]
    pub fn bump_exclusive(&self) {
        self.set(self.get() + 1);
    }

    /// Raises the number to `value` if that is more, where one thread at a time may.
    #[inline]
    pub fn raise_exclusive(&self, value: u64) {
        self.set(self.get().max(value));
    }

    /// Adds `n`, from any thread.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
}
