//! Counters: kept per stripe by whoever holds its mark, summed by whoever reads them.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use crate::{Event, Subscriptions, event::EventTallies, sync::Tally};

/// What an owner has counted so far. Each number is exact once the operations it counts are over; reading stops
/// nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Subscribers that were registered, by either engine.
    pub registrations: u64,
    /// Interval subscribers that were inserted.
    pub insertions: u64,
    /// Starts by event, in the order of [`Event::ALL`]; refused ones are among them.
    pub invalidations: [u64; Event::ALL.len()],
    /// Starts that a subscriber refused.
    pub refusals: u64,
    /// Times that a reader of an interval had to start over.
    pub retries: u64,
    /// The longest time from a start to its end among those that began while
    /// [`time_invalidations`](Subscriptions::time_invalidations) was on; zero if none did.
    pub longest: Duration,
    /// The time that registrations held all locks of the address space, all together.
    pub all_locks_held: Duration,
}

impl Counters {
    /// Starts for the reason `event`.
    #[must_use]
    pub const fn invalidations_of(&self, event: Event) -> u64 {
        self.invalidations[event.index()]
    }
}

/// The part of the counters that is kept per mark, in the mark's own cache lines.
#[derive(Debug, Default)]
pub(crate) struct SlotTallies {
    pub(crate) events: EventTallies,
    pub(crate) refusals: Tally,
    pub(crate) longest_ns: Tally,
    /// When the operation started, in nanoseconds of [`now`]; zero if it is not timed.
    pub(crate) started_ns: Tally,
}

/// The part that is rarely written.
#[derive(Debug, Default)]
pub(crate) struct SharedTallies {
    pub(crate) registrations: Tally,
    pub(crate) insertions: Tally,
    pub(crate) retries: Tally,
    pub(crate) all_locks_ns: Tally,
    /// Whether somebody listens to the time from start to end: zero or one.
    pub(crate) timed: Tally,
}

/// Nanoseconds since some moment of this process's past; never zero.
pub(crate) fn now() -> u64 {
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    nanoseconds(EPOCH.elapsed()) + 1
}

/// A duration as it is tallied; saturates after 584 years.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX - 1)
}

impl Subscriptions {
    /// Whether to time invalidations from start to end, for [`Counters::longest`]. Off at first: it costs two
    /// readings of the clock an invalidation.
    pub fn time_invalidations(&self, on: bool) {
        self.shared().tallies.timed.set(on.into());
    }

    /// The counters as they are now.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let shared = self.shared();
        let tallies = &shared.tallies;
        let mut counters = Counters {
            registrations: tallies.registrations.get(),
            insertions: tallies.insertions.get(),
            retries: tallies.retries.get(),
            all_locks_held: Duration::from_nanos(tallies.all_locks_ns.get()),
            ..Counters::default()
        };
        for slot in shared.rcu.marks.slots() {
            for event in Event::ALL {
                counters.invalidations[event.index()] += slot.tallies.events.get(event);
            }
            counters.refusals += slot.tallies.refusals.get();
            counters.longest = counters.longest.max(Duration::from_nanos(slot.tallies.longest_ns.get()));
        }
        counters
    }
}
