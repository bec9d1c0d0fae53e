//! A gate for faulting readers: what KVM does with mmu_invalidate_in_progress, mmu_invalidate_seq and the range.
//!
//! A range subscriber that makes translations on demand keeps them in a [`Gate`]. Its callbacks tell the gate what is
//! being invalidated, and a reader finds out whether it raced:
//! ```text
//! ticket = gate.enter(); translate; gate.write(); if retry(ticket, address) start over; keep the translation
//! ```
//! **Guarantee.** No translation that passed `retry` is in the gate behind the end of an invalidation that took its page
//! away, if the subscriber's start drops what the gate holds of the range in the same hold of the lock.
//!
//! A reader that locks before the start is dropped by it. One that locks between start and end finds its address in
//! progress. One that locks after the end, and translated before the change, entered before the end: its ticket is old.
//! One that entered after the end saw the change.

use crate::{
    AddressRange,
    planted::{self, Bug},
    sync::{
        RwLock, RwLockReadGuard, RwLockWriteGuard, Tally,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
        read, write,
    },
};
use std::{
    ops::{Deref, DerefMut},
    sync::TryLockError,
};

/// Translations of type `T`, and what is being invalidated.
#[derive(Debug)]
pub struct Gate<T> {
    /// Counts ends. Written under the lock for writing.
    sequence: AtomicU64,
    /// A leaf.
    inner: RwLock<Inner<T>>,
    retries: Tally,
}

#[derive(Debug)]
struct Inner<T> {
    /// Starts without their end.
    in_progress: usize,
    /// All that was in progress since `in_progress` was last zero.
    range: Option<AddressRange>,
    translations: T,
}

/// What a reader got when it entered: how many invalidations had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "`retry` needs it"]
pub struct Ticket(u64);

/// The gate's lock, held for reading: for readers that keep nothing, or keep it in atomics of their own.
#[derive(Debug)]
pub struct GateReadGuard<'a, T> {
    gate: &'a Gate<T>,
    inner: RwLockReadGuard<'a, Inner<T>>,
}

/// The gate's lock, held for writing.
#[derive(Debug)]
pub struct GateWriteGuard<'a, T> {
    gate: &'a Gate<T>,
    inner: RwLockWriteGuard<'a, Inner<T>>,
}

impl<T> Gate<T> {
    /// A gate around `translations`.
    #[must_use]
    pub fn new(translations: T) -> Self {
        Self {
            sequence: AtomicU64::new(0),
            inner: RwLock::new(Inner { in_progress: 0, range: None, translations }),
            retries: Tally::new(),
        }
    }

    /// Begins to make a translation. Takes no lock and never sleeps.
    #[inline]
    pub fn enter(&self) -> Ticket {
        // Acquire: what ended invalidations changed is seen, pairs with `GateWriteGuard::end`.
        Ticket(self.sequence.load(Acquire))
    }

    /// Locks for reading. Sleeps while another thread has it for writing.
    pub fn read(&self) -> GateReadGuard<'_, T> {
        GateReadGuard { gate: self, inner: read(&self.inner) }
    }

    /// Locks for writing. Sleeps while another thread has it.
    pub fn write(&self) -> GateWriteGuard<'_, T> {
        GateWriteGuard { gate: self, inner: write(&self.inner) }
    }

    /// Locks for writing if nobody has it: for a start that may not block.
    pub fn try_write(&self) -> Option<GateWriteGuard<'_, T>> {
        let inner = match self.inner.try_write() {
            Ok(inner) => inner,
            Err(TryLockError::Poisoned(inner)) => inner.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(GateWriteGuard { gate: self, inner })
    }

    /// How often a reader was told to start over.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries.get()
    }

    fn must_retry(&self, inner: &Inner<T>, ticket: Ticket, address: u64) -> bool {
        let in_progress = inner.in_progress > 0
            && inner.range.is_some_and(|range| range.contains(address))
            && !planted::is(Bug::GateIgnoresProgress);
        // Relaxed: written under the lock, which is held.
        let retry = in_progress || self.sequence.load(Relaxed) != ticket.0;
        if retry {
            self.retries.add(1);
        }
        retry
    }
}

impl<T> GateReadGuard<'_, T> {
    /// Whether a translation of `address` (in bytes) that was made since [`enter`](Gate::enter) gave `ticket` must be
    /// made again. If not, it may be used as long as this guard is held.
    #[must_use]
    pub fn retry(&self, ticket: Ticket, address: u64) -> bool {
        self.gate.must_retry(&self.inner, ticket, address)
    }
}

impl<T> GateWriteGuard<'_, T> {
    /// Whether a translation of `address` (in bytes) that was made since [`enter`](Gate::enter) gave `ticket` must be
    /// made again. If not, it may be kept until a start drops it.
    #[must_use]
    pub fn retry(&self, ticket: Ticket, address: u64) -> bool {
        self.gate.must_retry(&self.inner, ticket, address)
    }

    /// An invalidation of `range` starts: the subscriber drops its translations of it before it drops this guard.
    pub fn start(&mut self, range: AddressRange) {
        let inner = &mut *self.inner;
        inner.in_progress += 1;
        inner.range = Some(inner.range.map_or(range, |earlier| earlier.hull(range)));
    }

    /// An invalidation ends. An end without a start is ignored.
    pub fn end(&mut self) {
        let inner = &mut *self.inner;
        inner.in_progress = inner.in_progress.saturating_sub(1);
        if inner.in_progress == 0 {
            inner.range = None;
        }
        if !planted::is(Bug::GateKeepsSequence) {
            // Release: pairs with `enter`. No read-modify-write: the lock is held for writing.
            self.gate.sequence.store(self.gate.sequence.load(Relaxed) + 1, Release);
        }
    }
}

impl<T> Deref for GateReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner.translations
    }
}

impl<T> Deref for GateWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner.translations
    }
}

impl<T> DerefMut for GateWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner.translations
    }
}
