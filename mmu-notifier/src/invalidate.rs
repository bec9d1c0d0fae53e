//! An invalidation: start, the change, end.

use std::{fmt, ops::ControlFlow, panic::resume_unwind, sync::Arc};

use crate::{
    AddressRange, Invalidation, Subscriptions, Witness, WouldBlock,
    entry::{Called, Panic},
    marks::HeldSlot,
    planted::{self, Bug},
    rcu::Reading,
    subscriptions::{Shared, Snapshot},
};

/// A subscriber refused a start that may not block. Whoever was told before it has got its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{by} refused the invalidation of {range}: it would have to sleep; try again where that is allowed")]
pub struct Refused {
    /// The name of the subscriber that refused.
    pub by: Arc<str>,
    /// The range that was not invalidated.
    pub range: AddressRange,
}

/// An invalidation between its start and its end; dropping it is the end, also when that is by an early return or a
/// panic.
///
/// It remembers who was told of the start, and exactly those are told of the end, whoever came or left in between.
/// As long as it lives, it keeps a registration that began after the start from returning: so it must not be leaked.
#[must_use = "dropping it ends the invalidation"]
pub struct InvalidationGuard<'a> {
    /// The mark, and the snapshot that the start went by. Ends last.
    reading: Reading<'a, Snapshot>,
    invalidation: Invalidation,
    told: Told,
}

/// How many of a snapshot's subscribers were told, in the snapshot's order.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// Of the intervals that overlap, those that count this invalidation as active.
    intervals: u32,
    ranges: u32,
}

/// Why a start went no further.
#[derive(Debug)]
enum Stopped {
    Refused(Arc<str>),
    Panicked(Panic),
}

/// An invalidation on its way round the subscribers of its snapshot.
///
/// A copy of what the guard holds, made where there is a subscriber to tell. The guard itself is never lent out, so
/// that it stays in registers where there is none: that made a start and its end twice as fast.
struct Round<'r> {
    slot: HeldSlot<'r>,
    snapshot: &'r Snapshot,
    invalidation: Invalidation,
    told: Told,
}

impl Subscriptions {
    /// Announces that `invalidation` begins: before the range is closed to faults, under no page-table lock.
    ///
    /// When this returns, no subscriber uses a translation in the range or makes a new one. Callbacks may sleep. The
    /// guard that comes back is the end, for when the change is done; `witness` stays borrowed until then. Starts may
    /// be nested and run on many threads at once.
    ///
    /// # Panics
    /// Goes on with a panic of a subscriber, after all who were told have got their end.
    #[inline]
    pub fn invalidate_range_start<'a>(
        &'a self,
        witness: &'a impl Witness,
        invalidation: Invalidation,
    ) -> InvalidationGuard<'a> {
        let _ = witness;
        let reading = self.shared().begin(&invalidation);
        let told = match reading.get() {
            Some(snapshot) => Round::new(&reading, snapshot, invalidation).start(),
            None => Told::default(),
        };
        InvalidationGuard { reading, invalidation, told }
    }

    /// As [`invalidate_range_start`](Self::invalidate_range_start), where the caller may not sleep.
    ///
    /// # Errors
    /// [`Refused`] by a subscriber that would have to sleep. Those told before it have got their end then, and the
    /// range must not be changed.
    ///
    /// # Panics
    /// As [`invalidate_range_start`](Self::invalidate_range_start).
    #[inline]
    pub fn invalidate_range_start_nonblock<'a>(
        &'a self,
        witness: &'a impl Witness,
        invalidation: Invalidation,
    ) -> Result<InvalidationGuard<'a>, Refused> {
        let _ = witness;
        let invalidation = invalidation.nonblock();
        let reading = self.shared().begin(&invalidation);
        let told = match reading.get() {
            Some(snapshot) => Round::new(&reading, snapshot, invalidation).try_start()?,
            None => Told::default(),
        };
        Ok(InvalidationGuard { reading, invalidation, told })
    }

    /// Ends an invalidation, as dropping the guard does: now the page may be freed or reused.
    #[inline]
    pub fn invalidate_range_end(&self, guard: InvalidationGuard<'_>) {
        drop(guard);
    }
}

impl Shared {
    /// In flight from here on.
    #[inline]
    fn begin(&self, invalidation: &Invalidation) -> Reading<'_, Snapshot> {
        let reading = self.rcu.read();
        let slot = reading.slot();
        // An empty list needs no range: whoever comes meanwhile waits for this operation whatever it is on.
        if reading.get().is_some() {
            reading.mark.set_range(invalidation.range());
        }
        slot.tallies().events.bump_exclusive(invalidation.event());
        if self.tallies.timed.get() != 0 {
            slot.start_clock();
        }
        reading
    }

    /// Start and end for the intervals only.
    pub(crate) fn invalidate_intervals(&self, invalidation: Invalidation) -> Result<(), Panic> {
        let reading = self.begin(&invalidation);
        let Some(snapshot) = reading.get() else {
            reading.slot().stop_clock();
            return Ok(());
        };
        let mut round = Round::new(&reading, snapshot, invalidation);
        let stopped = round.tell_intervals();
        let panic = round.tell_end();
        reading.slot().stop_clock();
        match (stopped, panic) {
            (Err(Stopped::Panicked(panic)), _) | (_, Some(panic)) => Err(panic),
            (Ok(()) | Err(Stopped::Refused(_)), None) => Ok(()),
        }
    }
}

impl InvalidationGuard<'_> {
    /// What is being invalidated, and why.
    #[must_use]
    pub fn invalidation(&self) -> &Invalidation {
        &self.invalidation
    }
}

impl<'r> Round<'r> {
    #[inline]
    fn new(reading: &'r Reading<'_, Snapshot>, snapshot: &'r Snapshot, invalidation: Invalidation) -> Self {
        Self { slot: reading.slot(), snapshot, invalidation, told: Told::default() }
    }

    /// Tells everybody of the start.
    #[inline(never)]
    fn start(mut self) -> Told {
        match self.tell() {
            // A start that may block is not refused: nobody can make a refusal.
            Ok(()) | Err(Stopped::Refused(_)) => self.told,
            Err(Stopped::Panicked(panic)) => self.give_up(panic),
        }
    }

    /// Tells everybody of the start, or nobody: those told before a refusal get their end.
    #[inline(never)]
    fn try_start(mut self) -> Result<Told, Refused> {
        match self.tell() {
            Ok(()) => Ok(self.told),
            Err(Stopped::Refused(by)) => {
                if planted::is(Bug::NoRollback) {
                    self.told.ranges = 0;
                }
                self.slot.tallies().refusals.bump_exclusive();
                let range = self.invalidation.range();
                self.end();
                Err(Refused { by, range })
            }
            Err(Stopped::Panicked(panic)) => self.give_up(panic),
        }
    }

    fn tell(&mut self) -> Result<(), Stopped> {
        self.tell_intervals()?;
        self.tell_ranges()
    }

    fn tell_intervals(&mut self) -> Result<(), Stopped> {
        let Self { slot, snapshot, invalidation, told } = self;
        let stopped = snapshot.intervals.overlapping(invalidation.range(), |interval| {
            told.intervals += 1;
            match interval.start(*slot, invalidation) {
                Called::Closed | Called::Returned(Ok(())) => ControlFlow::Continue(()),
                Called::Returned(Err(WouldBlock { .. })) => {
                    ControlFlow::Break(Stopped::Refused(interval.entry.name().clone()))
                }
                Called::Panicked(panic) => ControlFlow::Break(Stopped::Panicked(panic)),
            }
        });
        stopped.break_value().map_or(Ok(()), Err)
    }

    fn tell_ranges(&mut self) -> Result<(), Stopped> {
        let Self { slot, snapshot, invalidation, told } = self;
        for range in &snapshot.ranges {
            match range.entry.call(*slot, |s| s.invalidate_range_start(invalidation)) {
                Called::Closed | Called::Returned(Ok(())) => told.ranges += 1,
                Called::Returned(Err(WouldBlock { .. })) => {
                    if planted::is(Bug::EndToRefuser) {
                        told.ranges += 1;
                    }
                    return Err(Stopped::Refused(range.entry.name().clone()));
                }
                Called::Panicked(panic) => {
                    told.ranges += 1;
                    return Err(Stopped::Panicked(panic));
                }
            }
        }
        Ok(())
    }

    /// Ends for those who were told, then goes on with `panic`.
    #[cold]
    fn give_up(self, panic: Panic) -> ! {
        // Whatever panics at the end too: the first panic says enough.
        let _ = self.tell_end();
        self.slot.stop_clock();
        resume_unwind(panic)
    }

    /// The end, for exactly those who were told of the start.
    #[inline(never)]
    fn end(self) {
        let panic = self.tell_end();
        self.slot.stop_clock();
        // While a panic is under way already, a second one would end the process: the first one says enough.
        if let Some(panic) = panic.filter(|_| !std::thread::panicking()) {
            resume_unwind(panic);
        }
    }

    /// Tells those who were told of the start; the first panic among them.
    fn tell_end(&self) -> Option<Panic> {
        let Self { slot, snapshot, invalidation, told } = self;
        let mut active = 0..told.intervals;
        let _ = snapshot.intervals.overlapping(invalidation.range(), |interval| {
            if active.next().is_none() {
                return ControlFlow::Break(());
            }
            interval.end();
            ControlFlow::Continue(())
        });
        let mut panic = None;
        for range in snapshot.ranges.iter().take(told.ranges as usize) {
            // One that was unregistered since is closed, and so was one that was skipped at the start.
            if let Called::Panicked(payload) =
                range.entry.call(*slot, |s| s.invalidate_range_end(invalidation))
            {
                panic = panic.or(Some(payload));
            }
        }
        panic
    }
}

impl Drop for InvalidationGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        let Self { reading, invalidation, told } = self;
        let (mut told, mut snapshot) = (*told, reading.get());
        if planted::is(Bug::EndToCurrentList) {
            (told.ranges, snapshot) = (u32::MAX, reading.get_latest());
        }
        // The mark ends with `self.reading`, also when this goes on panicking.
        match snapshot {
            Some(snapshot) => Round { told, ..Round::new(reading, snapshot, *invalidation) }.end(),
            None if reading.slot().is_timed() => reading.slot().stop_clock(),
            None => {}
        }
    }
}

impl fmt::Debug for InvalidationGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InvalidationGuard").field("invalidation", &self.invalidation).finish_non_exhaustive()
    }
}
