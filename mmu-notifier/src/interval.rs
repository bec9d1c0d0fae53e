//! Interval notifiers: many subscribers, each on its own range, each with a sequence number.
//!
//! A reader that makes a translation does
//! ```text
//! seq = read_begin(); translate; lock; if read_retry(seq) start over; use it until the lock is dropped
//! ```
//! **Guarantee.** No translation that passed `read_retry` is used after the end of an invalidation that took its page
//! away: either `invalidate` of that invalidation comes after the reader's lock, and drops it; or it came before, and
//! then `read_retry` says so, or `read_begin` slept until the change was done.
//!
//! ```text
//!   an invalidation                          a reader
//!   active += 1                              read seq
//!   invalidate: lock; seq = new; unlock      active == 0? else sleep, start over
//!   change the page table                    translate
//!   active -= 1                              lock; seq as read? else start over
//! ```
//! A reader that read the new `seq` sees `active` raised: it sleeps until the change is done. One that read the old
//! `seq` and locks after `invalidate` starts over. One that locks before is told by it. The reader reads `seq` *before*
//! `active`, or it could take the new number for one that no invalidation is behind.
//!
//! **Coming and going.** [`Subscriptions::insert`] publishes the interval and notes which invalidations are in flight:
//! they go by an older snapshot and will not call it. The insertion is complete when those have ended; until then
//! `read_begin` sleeps for the ones that may overlap. Nobody processes a list of what was deferred, so nothing can be
//! lost there, and later invalidations cannot starve it. A removal likewise: invalidations that began before go on with
//! their snapshot, which is freed when they have ended.

use std::{fmt, sync::Arc};

use crate::{
    AddressRange, IntervalSubscriber, Invalidation, RegisterError, Subscriptions, WouldBlock, WrongPlace,
    entry::{Called, Entry},
    marks::{HeldSlot, InFlight},
    parking::Parking,
    planted::{self, Bug},
    subscriptions::{Phase, Shared},
    sync::{
        Mutex,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
        lock,
    },
};

pub(crate) mod tree;

/// Somebody sleeps until `active` is zero. The count is in the bits above.
const WAITED: u64 = 1;
/// One invalidation in `active`.
const ONE: u64 = 2;

/// An interval subscriber's place in the tree.
#[derive(Debug)]
pub(crate) struct IntervalEntry {
    pub(crate) entry: Entry<dyn IntervalSubscriber>,
    range: AddressRange,
    /// Invalidations that overlap, from before `invalidate` is called until their end; and [`WAITED`].
    active: AtomicU64,
    /// The last sequence number that was given out.
    issued: AtomicU64,
    /// The sequence number as the subscriber last set it, under its lock.
    sequence: AtomicU64,
    parking: Parking,
}

/// The sequence number that an `invalidate` has to set.
#[derive(Debug)]
pub struct SequenceUpdate<'a> {
    entry: &'a IntervalEntry,
    sequence: u64,
}

/// Proof that the sequence number was set: what `invalidate` returns.
#[derive(Debug)]
pub struct SequenceIsSet(());

/// What `read_begin` read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence(u64);

/// A subscriber on one range, for its readers. Dropping it removes the subscriber without waiting: callbacks that
/// run may go on for a while, no new ones begin.
pub struct IntervalSubscription {
    shared: Arc<Shared>,
    entry: Arc<IntervalEntry>,
    serial: u64,
    /// What was in flight at the insertion and is not known to be over.
    earlier: Mutex<Vec<InFlight>>,
    /// Whether `earlier` has to be looked at.
    pending: AtomicBool,
}

/// Why an interval subscriber was not removed. It is still subscribed, or was removed before.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// It would have waited for its caller.
    #[error("cannot remove the subscriber here; drop the subscription to remove it without waiting")]
    WrongPlace(#[from] WrongPlace),
    /// It was removed before.
    #[error("the subscriber was removed already")]
    Removed,
}

impl SequenceUpdate<'_> {
    /// Sets the sequence number. Called under the subscriber's lock, the one that it calls
    /// [`read_retry`](IntervalSubscription::read_retry) under.
    #[must_use = "`invalidate` returns it"]
    pub fn set(self) -> SequenceIsSet {
        // Release: whoever reads this number sees the invalidation active, pairs with `try_read_begin`.
        self.entry.sequence.store(self.sequence, Release);
        SequenceIsSet(())
    }
}

impl IntervalEntry {
    /// Counts an invalidation as active and tells the subscriber.
    pub(crate) fn start(
        &self,
        slot: HeldSlot<'_>,
        invalidation: &Invalidation,
    ) -> Called<Result<(), WouldBlock>> {
        if !planted::is(Bug::ActiveLate) {
            // Before the sequence number is set: pairs with the loads in `try_read_begin`.
            self.active.fetch_add(ONE, AcqRel);
        }
        let sequence = self.issued.fetch_add(1, Relaxed) + 1;
        let called = self.entry.call(slot, |subscriber| {
            subscriber
                .invalidate(invalidation, SequenceUpdate { entry: self, sequence })
                .map(|SequenceIsSet(())| ())
        });
        if planted::is(Bug::ActiveLate) {
            self.active.fetch_add(ONE, AcqRel);
        }
        called
    }

    /// The invalidation has ended.
    pub(crate) fn end(&self) {
        // Release: whoever sees none active sees what they changed.
        if self.active.fetch_sub(ONE, AcqRel) == ONE | WAITED {
            // Another invalidation may have become active meanwhile: the sleepers look again, and wait again.
            self.active.fetch_and(!WAITED, AcqRel);
            if !planted::is(Bug::LostReaderWakeup) {
                self.parking.wake();
            }
        }
    }

    /// Sleeps until no invalidation is active.
    fn wait_until_idle(&self) {
        self.parking.wait_while(|| {
            let mut active = self.active.load(Acquire);
            while active >= ONE && active & WAITED == 0 && !planted::is(Bug::ReaderSleepsUnmarked) {
                match self.active.compare_exchange(active, active | WAITED, AcqRel, Acquire) {
                    Ok(_) => break,
                    Err(now) => active = now,
                }
            }
            active >= ONE
        });
    }
}

impl Subscriptions {
    /// Inserts `subscriber` on `range`. Waits for nothing, also where [`register`](Self::register) may not be called.
    ///
    /// Invalidations that run already do not call it; [`read_begin`](IntervalSubscription::read_begin) sleeps until
    /// those that may overlap are over.
    ///
    /// # Errors
    /// [`RegisterError::Ended`].
    pub fn insert(
        &self,
        range: AddressRange,
        subscriber: Arc<dyn IntervalSubscriber>,
    ) -> Result<IntervalSubscription, RegisterError> {
        let shared = self.shared();
        // Foreign code, so under no lock.
        let name: Arc<str> = subscriber.name().into();
        let mut registry = shared.registry();
        if registry.phase != Phase::Live {
            return Err(RegisterError::Ended);
        }
        let serial = registry.next_serial();
        let entry = Arc::new(IntervalEntry {
            entry: Entry::new(serial, name, subscriber),
            range,
            active: AtomicU64::new(0),
            issued: AtomicU64::new(0),
            sequence: AtomicU64::new(0),
            parking: Parking::default(),
        });
        registry.intervals = registry.intervals.inserted(range, serial, entry.clone());
        let replacement = shared.publish(&registry);
        drop(registry);
        drop(replacement.freed);
        shared.tallies.insertions.add(1);
        Ok(IntervalSubscription {
            shared: shared.clone(),
            entry,
            serial,
            pending: AtomicBool::new(!replacement.in_flight.is_empty()),
            earlier: Mutex::new(replacement.in_flight),
        })
    }
}

impl IntervalSubscription {
    /// The range that is subscribed to.
    #[must_use]
    pub fn range(&self) -> AddressRange {
        self.entry.range
    }

    /// Begins to make a translation: sleeps until the invalidations that overlap have ended.
    ///
    /// Called with no lock that a callback takes, and not between the thread's own start and end of an invalidation
    /// that overlaps: it would sleep for ever.
    #[must_use]
    pub fn read_begin(&self) -> Sequence {
        loop {
            if let Some(sequence) = self.try_read_begin() {
                return sequence;
            }
            debug_assert!(
                !self.shared.rcu.marks.held_by_this_thread(),
                "read_begin in the middle of the thread's own invalidation sleeps for ever"
            );
            self.complete_insertion();
            self.entry.wait_until_idle();
        }
    }

    /// As [`read_begin`](Self::read_begin); `None` where that would sleep.
    #[inline]
    #[must_use]
    pub fn try_read_begin(&self) -> Option<Sequence> {
        // Acquire: what was awaited is seen, pairs with `complete_insertion`.
        if self.pending.load(Acquire) && !self.is_inserted() {
            return None;
        }
        let late = planted::is(Bug::SequenceReadLate);
        let early_active = late.then(|| self.entry.active.load(Acquire));
        // Acquire: pairs with `SequenceUpdate::set`, so that `active` is read behind it.
        let sequence = self.entry.sequence.load(Acquire);
        // Acquire: what ended invalidations changed is seen, pairs with `IntervalEntry::end`.
        let active = early_active.unwrap_or_else(|| self.entry.active.load(Acquire));
        (active < ONE).then_some(Sequence(sequence))
    }

    /// Whether a translation that was made since [`read_begin`](Self::read_begin) returned `sequence` must be made
    /// again. Called under the subscriber's lock; if this says no, the translation may be used, and kept, until an
    /// `invalidate` drops it under the same lock.
    #[inline]
    #[must_use]
    pub fn read_retry(&self, sequence: Sequence) -> bool {
        // Acquire for a caller that has forgotten the lock; under it, the lock orders this.
        let retry = self.entry.sequence.load(Acquire) != sequence.0;
        if retry {
            self.shared.tallies.retries.add(1);
        }
        retry
    }

    /// Ends the subscription and gives the subscriber back: no callback of it runs when this returns, and none will.
    /// Sleeps while one runs; does not wait for invalidations that are open.
    ///
    /// # Errors
    /// [`RemoveError`].
    pub fn remove(&self) -> Result<Arc<dyn IntervalSubscriber>, RemoveError> {
        self.shared.may_wait()?;
        self.withdraw();
        self.entry.entry.take(&self.shared.rcu.marks).ok_or(RemoveError::Removed)
    }

    /// Takes the interval out of the tree and lets no callback begin.
    fn withdraw(&self) {
        if !self.entry.entry.close() {
            return;
        }
        let mut registry = self.shared.registry();
        registry.intervals = registry.intervals.removed(self.entry.range, self.serial);
        let replacement = self.shared.publish(&registry);
        drop(registry);
        drop(replacement);
    }

    /// Whether all that was in flight at the insertion, and may overlap, is over.
    #[cold]
    fn is_inserted(&self) -> bool {
        if planted::is(Bug::IgnorePending) {
            return true;
        }
        let mut earlier = lock(&self.earlier);
        let marks = &self.shared.rcu.marks;
        earlier.retain(|&op| !marks.is_over(op) && !marks.is_disjoint(op, self.entry.range));
        if earlier.is_empty() {
            // Release: pairs with the load in `try_read_begin`.
            self.pending.store(false, Release);
        }
        earlier.is_empty()
    }

    /// Sleeps for what was in flight at the insertion.
    fn complete_insertion(&self) {
        if !self.pending.load(Acquire) || self.is_inserted() {
            return;
        }
        let earlier = lock(&self.earlier).clone();
        self.shared.wait_for(&earlier);
    }
}

impl Drop for IntervalSubscription {
    fn drop(&mut self) {
        self.withdraw();
    }
}

impl fmt::Debug for IntervalSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntervalSubscription").field("entry", &self.entry).finish_non_exhaustive()
    }
}
