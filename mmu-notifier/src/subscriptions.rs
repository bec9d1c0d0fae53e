//! One owner's subscribers: what is published to invalidations, and what stands behind it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    Subscriber,
    counters::SharedTallies,
    entry::{Called, Entry, Panic},
    interval::{IntervalEntry, tree::Tree},
    order,
    planted::{self, Bug},
    rcu::{Rcu, Replacement},
    sync::{Mutex, MutexGuard, atomic::AtomicBool, lock},
};

/// The subscribers of one address space; its owner keeps one and announces every change through it.
///
/// See the [crate's documentation](crate) for the protocol. Dropping it ends the address space, like
/// [`release`](Self::release).
pub struct Subscriptions {
    shared: Arc<Shared>,
}

/// A registered subscriber: which owner's, and a serial number that this owner never gives again. So a handle that
/// is stale or another owner's is told apart from every good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubscriberId {
    pub(crate) owner: u64,
    pub(crate) serial: u64,
}

/// An operation that sleeps until others are done was called where that cannot end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongPlace {
    /// The calling thread holds a ranked lock, which those it would wait for may need.
    #[error("the calling thread holds a lock of the lock order; release it first")]
    LockHeld,
    /// The calling thread is in a callback of this owner, or between its own start and end.
    #[error("called in a callback of the same owner or between start and end; it would wait for itself")]
    InsideOperation,
}

/// What interval subscriptions share with the owner and may outlive it with.
pub(crate) struct Shared {
    pub(crate) rcu: Rcu<Snapshot>,
    /// Not held over a callback, a wait, or the drop of anything foreign.
    registry: Mutex<Registry>,
    pub(crate) tallies: SharedTallies,
    /// Whether an invalidation may run without a lock that take_all_locks takes.
    pub(crate) exempt: AtomicBool,
    /// This owner's number in handles.
    pub(crate) owner: u64,
}

/// What an invalidation sees of the subscribers: never changed, only replaced.
pub(crate) struct Snapshot {
    pub(crate) ranges: Box<[Arc<RangeEntry>]>,
    pub(crate) intervals: Tree<IntervalEntry>,
}

/// A range subscriber's place in the list.
#[derive(Debug)]
pub(crate) struct RangeEntry {
    pub(crate) entry: Entry<dyn Subscriber>,
    /// Whether `release` was called. Held while it is, so that whoever comes second waits.
    released: Mutex<bool>,
}

/// What the next snapshot is made from.
#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) registered: Vec<Registered>,
    pub(crate) intervals: Tree<IntervalEntry>,
    pub(crate) phase: Phase,
    last_serial: u64,
}

pub(crate) struct Registered {
    pub(crate) entry: Arc<RangeEntry>,
    /// Somebody unregisters it.
    pub(crate) leaving: bool,
}

/// How far the address space is from its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Live,
    /// Nobody may come any more; all who are there are told still.
    Ending,
    /// All were released: nobody is told anything any more.
    Ended,
}

impl Subscriptions {
    /// An owner without subscribers.
    #[must_use]
    pub fn new() -> Self {
        static LAST_OWNER: AtomicU64 = AtomicU64::new(0);
        Self {
            shared: Arc::new(Shared {
                rcu: Rcu::new(),
                registry: Mutex::new(Registry::default()),
                tallies: SharedTallies::default(),
                exempt: AtomicBool::new(false),
                owner: LAST_OWNER.fetch_add(1, Relaxed),
            }),
        }
    }

    #[inline]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        lock(&self.registry)
    }

    /// Publishes what `registry` says.
    pub(crate) fn publish(&self, registry: &Registry) -> Replacement<Snapshot> {
        self.rcu.replace(registry.snapshot())
    }

    /// Whether the calling thread may sleep until operations of this owner are over.
    pub(crate) fn may_wait(&self) -> Result<(), WrongPlace> {
        if self.rcu.marks.held_by_this_thread() {
            return Err(WrongPlace::InsideOperation);
        }
        if order::any_held() {
            return Err(WrongPlace::LockHeld);
        }
        Ok(())
    }

    /// Calls `release` of a subscriber whose entry is open, unless that was done; waits if it is being done.
    pub(crate) fn release_once(&self, subscriber: &RangeEntry) -> Result<(), Panic> {
        // Within an operation, so that a release that registers or unregisters is told that it must not.
        let reading = self.rcu.read();
        let mut released = lock(&subscriber.released);
        if *released && !planted::is(Bug::ReleaseTwice) {
            return Ok(());
        }
        *released = true;
        match subscriber.entry.call(reading.slot(), <dyn Subscriber>::release) {
            Called::Panicked(panic) => Err(panic),
            Called::Returned(()) | Called::Closed => Ok(()),
        }
    }
}

impl Registry {
    /// A serial number that was never given before.
    pub(crate) fn next_serial(&mut self) -> u64 {
        self.last_serial += 1;
        self.last_serial
    }

    fn snapshot(&self) -> Option<Snapshot> {
        let nobody = self.registered.is_empty() && self.intervals.is_empty();
        (!nobody && self.phase != Phase::Ended).then(|| Snapshot {
            ranges: self.registered.iter().map(|r| r.entry.clone()).collect(),
            intervals: self.intervals.clone(),
        })
    }
}

impl RangeEntry {
    pub(crate) fn new(serial: u64, name: Arc<str>, subscriber: Arc<dyn Subscriber>) -> Self {
        Self { entry: Entry::new(serial, name, subscriber), released: Mutex::new(false) }
    }
}

impl fmt::Debug for Subscriptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriptions").field("owner", &self.shared.owner).finish_non_exhaustive()
    }
}
