//! An invalidation: start, the change, end.

use std::{fmt, ops::ControlFlow, panic::resume_unwind, sync::Arc};

use crate::{
    AddressRange, Invalidation, Subscriptions, Witness, WouldBlock,
    entry::{Called, Panic},
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
        if reading.get().is_some() {
            return InvalidationGuard::announce(reading, invalidation);
        }
        InvalidationGuard::untold(reading, invalidation)
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
        let mut guard =
            InvalidationGuard::untold(self.shared().begin(&invalidation), invalidation.nonblock());
        match guard.tell() {
            Ok(()) => Ok(guard),
            Err(Stopped::Refused(by)) => {
                if planted::is(Bug::NoRollback) {
                    guard.told.ranges = 0;
                }
                guard.reading.mark.tallies().refusals.bump_exclusive();
                Err(Refused { by, range: invalidation.range() })
            }
            Err(Stopped::Panicked(panic)) => guard.give_up(panic),
        }
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
        // An empty list needs no range: whoever comes meanwhile waits for this operation whatever it is on.
        if reading.get().is_some() {
            reading.mark.set_range(invalidation.range());
        }
        reading.mark.tallies().events.bump_exclusive(invalidation.event());
        if self.tallies.timed.get() != 0 {
            reading.mark.start_clock();
        }
        reading
    }

    /// Start and end for the intervals only.
    pub(crate) fn invalidate_intervals(&self, invalidation: Invalidation) -> Result<(), Panic> {
        let mut guard = InvalidationGuard::untold(self.begin(&invalidation), invalidation);
        match guard.tell_intervals() {
            Err(Stopped::Panicked(panic)) => Err(panic),
            Ok(()) | Err(Stopped::Refused(_)) => Ok(()),
        }
    }
}

impl<'a> InvalidationGuard<'a> {
    #[inline]
    fn untold(reading: Reading<'a, Snapshot>, invalidation: Invalidation) -> Self {
        Self { reading, invalidation, told: Told::default() }
    }

    /// What is being invalidated, and why.
    #[must_use]
    pub fn invalidation(&self) -> &Invalidation {
        &self.invalidation
    }

    #[inline(never)]
    fn announce(reading: Reading<'a, Snapshot>, invalidation: Invalidation) -> Self {
        let mut guard = Self::untold(reading, invalidation);
        match guard.tell() {
            // A start that may block is not refused: nobody can make a refusal.
            Ok(()) | Err(Stopped::Refused(_)) => guard,
            Err(Stopped::Panicked(panic)) => guard.give_up(panic),
        }
    }

    fn tell(&mut self) -> Result<(), Stopped> {
        self.tell_intervals()?;
        self.tell_ranges()
    }

    fn tell_intervals(&mut self) -> Result<(), Stopped> {
        let Self { reading, invalidation, told, .. } = self;
        let Some(snapshot) = reading.get() else {
            return Ok(());
        };
        let stopped = snapshot.intervals.overlapping(invalidation.range(), |interval| {
            told.intervals += 1;
            match interval.start(&reading.mark, invalidation) {
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
        let Self { reading, invalidation, told, .. } = self;
        let Some(snapshot) = reading.get() else {
            return Ok(());
        };
        for range in &snapshot.ranges {
            match range.entry.call(&reading.mark, |s| s.invalidate_range_start(invalidation)) {
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
        drop(self);
        resume_unwind(panic)
    }

    /// The end, where there is anything to do for it.
    #[inline(never)]
    fn end(&mut self) {
        let panic = self.tell_end();
        self.reading.mark.stop_clock();
        // While a panic is under way already, a second one would end the process: the first one says enough.
        if let Some(panic) = panic.filter(|_| !std::thread::panicking()) {
            resume_unwind(panic);
        }
    }

    /// Tells exactly those who were told of the start; the first panic among them.
    fn tell_end(&mut self) -> Option<Panic> {
        let Self { reading, invalidation, told, .. } = self;
        let snapshot = reading.get();
        #[cfg(all(test, loom))]
        let snapshot = if planted::is(Bug::EndToCurrentList) { reading.get_latest() } else { snapshot };
        let snapshot = snapshot?;
        let mut active = 0..told.intervals;
        let _ = snapshot.intervals.overlapping(invalidation.range(), |interval| {
            if active.next().is_none() {
                return ControlFlow::Break(());
            }
            interval.end();
            ControlFlow::Continue(())
        });
        let mut panic = None;
        let told = if planted::is(Bug::EndToCurrentList) { u32::MAX } else { told.ranges };
        for range in snapshot.ranges.iter().take(told as usize) {
            // One that was unregistered since is closed, and so was one that was skipped at the start.
            if let Called::Panicked(payload) =
                range.entry.call(&reading.mark, |s| s.invalidate_range_end(invalidation))
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
        // The mark ends with `self.reading`, also when this goes on panicking.
        if self.reading.get().is_some() || self.reading.mark.is_timed() {
            self.end();
        }
    }
}

impl fmt::Debug for InvalidationGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InvalidationGuard").field("invalidation", &self.invalidation).finish_non_exhaustive()
    }
}
