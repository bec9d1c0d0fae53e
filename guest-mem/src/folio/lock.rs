//! The folio lock: held while a folio is filled.
//!
//! A bit beside the reference count, with a second bit that says that somebody waits. The sleepers of all folios share
//! a few queues. Whoever unlocks takes the waiting bit along in the same atomic step:
//!
//! ```text
//! end of a fill                                   waiter, under the queue's mutex
//! one step: up to date, not locked,               one step: if locked, waiting bit on
//!           waiting bit off; was it on?           sleep (gives the mutex back)
//! if it was: take the queue's mutex, give it back,
//!            wake all
//!
//! waiter's step first: the bit is seen, and the mutex is free only when the waiter is asleep
//! unlock first: the waiter sees a folio that is not locked
//! ```

use mmu_notifier::{
    order::{self, Held},
    sync::{
        Condvar, Mutex,
        atomic::{
            AtomicU32,
            Ordering::{Acquire, Relaxed, Release},
        },
        lock, wait,
    },
};

use super::{FolioBorrow, loom_unwinds};
use crate::{
    frame::BLOCK_PAGES,
    order::FOLIO_LOCK,
    planted::{self, Bug},
};

/// Some thread has the folio lock.
const LOCKED: u32 = 1;
/// Some thread sleeps until the folio lock is given back.
const WAITING: u32 = 1 << 1;
/// The content is in.
const UPTODATE: u32 = 1 << 2;
/// Claimed and not freed.
const IN_USE: u32 = 1 << 3;
/// The content may be nowhere else.
const DIRTY: u32 = 1 << 4;

const NAME: &str = "folio lock";
/// Queues of a table; a power of two.
const QUEUES: usize = if cfg!(loom) { 1 } else { 64 };

/// What is known of a folio, and its lock.
#[derive(Debug, Default)]
pub(super) struct Flags(AtomicU32);

impl Flags {
    /// Free becomes in use, in one step. Says whether it did.
    pub(super) fn claim(&self) -> bool {
        // Acquire: pairs with the Release in `free`.
        self.0.compare_exchange(0, IN_USE, Acquire, Relaxed).is_ok()
    }

    pub(super) fn free(&self) {
        // Release: pairs with the Acquire in `claim`.
        self.0.store(0, Release);
    }

    pub(super) fn in_use(&self) -> bool {
        // Acquire: pairs with the Release in `free`.
        self.0.load(Acquire) & IN_USE != 0
    }

    #[inline]
    pub(super) fn is_uptodate(&self) -> bool {
        // Acquire: pairs with the Release in `unlock` and in `set_uptodate`: the content is seen too.
        self.0.load(Acquire) & UPTODATE != 0
    }

    pub(super) fn set_uptodate(&self) {
        // Release: pairs with the Acquire in `is_uptodate`.
        self.0.fetch_or(UPTODATE, Release);
    }

    pub(super) fn clear_uptodate(&self) {
        // Relaxed: only of an exclusive folio, which nobody looks at.
        self.0.fetch_and(!UPTODATE, Relaxed);
    }

    pub(super) fn is_dirty(&self) -> bool {
        // Relaxed: asked of an exclusive folio to be sure, and the Acquire of its freeze pairs with the Release of the
        // references of those who set it.
        self.0.load(Relaxed) & DIRTY != 0
    }

    pub(super) fn set_dirty(&self) {
        // Relaxed: see `is_dirty`.
        self.0.fetch_or(DIRTY, Relaxed);
    }

    fn try_lock(&self) -> bool {
        // Acquire: pairs with the Release in `unlock`.
        self.0.fetch_or(LOCKED, Acquire) & LOCKED == 0
    }

    /// Locks, or leaves the mark of a waiter.
    fn try_lock_or_mark(&self) -> bool {
        let mark = if planted::is(Bug::SleepUnmarked) { 0 } else { WAITING };
        // Acquire: pairs with the Release in `unlock`.
        let step = |flags| Some(if flags & LOCKED == 0 { flags | LOCKED } else { flags | mark });
        self.0.fetch_update(Acquire, Relaxed, step).is_ok_and(|before| before & LOCKED == 0)
    }

    /// Sets `also`, unlocks and says whether anybody waits, in one step.
    fn unlock(&self, also: u32) -> bool {
        // Release: pairs with the Acquire in `try_lock`, `try_lock_or_mark` and `is_uptodate`.
        let order = if planted::is(Bug::RelaxedEndFill) { Relaxed } else { Release };
        let waited = planted::is(Bug::LookThenUnlock).then(|| self.0.load(Acquire) & WAITING != 0);
        let step = |flags| Some((flags | also) & !(LOCKED | WAITING));
        let before = self.0.fetch_update(order, Relaxed, step).unwrap_or(0);
        waited.unwrap_or(before & WAITING != 0)
    }
}

/// Where threads sleep for folio locks.
#[derive(Debug)]
pub(super) struct Queues([Queue; QUEUES]);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Queue {
    /// A leaf: nothing is taken under it.
    mutex: Mutex<()>,
    unlocked: Condvar,
}

impl Default for Queues {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Queue::default()))
    }
}

impl Queues {
    /// Blocks and pages both spread over the queues.
    fn of(&self, index: u64) -> &Queue {
        let queue = ((index / BLOCK_PAGES) ^ index) % self.0.len() as u64;
        &self.0[usize::try_from(queue).unwrap_or(0)]
    }
}

impl Queue {
    #[cold]
    fn lock(&self, flags: &Flags) {
        let mut guard = lock(&self.mutex);
        while !flags.try_lock_or_mark() {
            guard = wait(&self.unlocked, guard);
        }
    }

    #[cold]
    fn wake(&self) {
        // Through the mutex, so that a waiter that has left its mark is asleep and not on its way there.
        drop(lock(&self.mutex));
        self.unlocked.notify_all();
    }
}

/// The folio lock is this thread's; dropped, it is given back and the folio is as up to date as it was.
#[must_use = "dropping the guard unlocks the folio"]
#[derive(Debug)]
pub struct FolioLockGuard<'a> {
    folio: FolioBorrow<'a>,
    /// Until [`end_fill`](Self::end_fill) has unlocked.
    locked: bool,
    /// Rank [`FOLIO_LOCK`].
    _held: Held,
}

impl<'a> FolioLockGuard<'a> {
    pub(super) fn lock(folio: FolioBorrow<'a>) -> Self {
        let held = order::acquire(FOLIO_LOCK, NAME);
        let flags = folio.flags();
        if !flags.try_lock() {
            folio.queues().of(folio.index()).lock(flags);
        }
        Self { folio, locked: true, _held: held }
    }

    pub(super) fn try_lock(folio: FolioBorrow<'a>) -> Option<Self> {
        folio.flags().try_lock().then(|| Self {
            folio,
            locked: true,
            _held: order::acquire_tried(FOLIO_LOCK, NAME),
        })
    }

    /// The folio that is locked.
    #[must_use]
    pub fn folio(&self) -> FolioBorrow<'a> {
        self.folio
    }

    /// Ends a fill: one atomic step says that the content is in, unlocks, and finds out whether anybody waits. Wakes
    /// them if so, and returns whether it did.
    ///
    /// The idea of one step is that of Linux's `folio_end_read`.
    #[expect(clippy::must_use_candidate, reason = "the waiters are woken already")]
    pub fn end_fill(mut self) -> bool {
        self.locked = false;
        self.unlock(UPTODATE)
    }

    /// Whether anybody waited.
    fn unlock(&self, also: u32) -> bool {
        let waited = self.folio.flags().unlock(also);
        if waited {
            self.folio.queues().of(self.folio.index()).wake();
        }
        waited
    }
}

impl Drop for FolioLockGuard<'_> {
    fn drop(&mut self) {
        if self.locked && !loom_unwinds() {
            self.unlock(0);
        }
    }
}
