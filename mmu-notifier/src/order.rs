//! The lock order: which lock may be taken while which others are held.
//!
//! There is one tree, and a thread takes locks only downwards:
//!
//! ```text
//! mmap_lock (per address space)                          Rank::MMAP_LOCK
//!   all_locks (one in the process)                       Rank::ALL_LOCKS
//!     VMA lock (per VMA)                                 Rank::VMA_LOCK
//!       ... the owner's: a folio lock, say ...           between 3000 and 5000
//!         reverse-map lock (per mapping)                 Rank::REVERSE_MAP_LOCK
//!           ... the owner's: a page-table lock, say ...  between 5000 and 9000
//!             leaves: nothing is taken under them        Rank::LEAF
//! ```
//!
//! A [`Rank`] is a place on the way down. The numbers leave gaps, and whoever builds on this crate puts its own ranks
//! there with [`Rank::new`]. A lock of any kind joins the order by calling [`acquire`] before it blocks and keeping
//! the [`Held`] for as long as the lock: the locks of this crate do so by themselves.
//!
//! **What is checked.** In a build with debug assertions a thread may block only on a lock of greater rank than every
//! lock it holds; anything else panics and names both locks, whether or not it would have come to a deadlock this
//! time. Two locks of one rank are an inversion too. The one place that holds many of a rank,
//! [`take_all_locks`](crate::take_all_locks), acquires the rank once for all of them, because it is alone under
//! all_locks. Trying a lock cannot deadlock, so [`acquire_tried`] takes any rank, and what is blocked on afterwards is
//! checked against it.
//!
//! **What it costs.** A release build checks nothing, and a [`Held`] is zero-sized. What remains is a count of the
//! locks that this thread holds, for [`any_held`]: one increment and one decrement of a thread-local integer, no
//! atomic operation.

use std::{cell::Cell, marker::PhantomData};

use crate::sync::const_thread_local;

/// A place in the lock order: locks of greater rank are taken under those of smaller rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank(u16);

impl Rank {
    /// [`MmapLock`](crate::MmapLock): the outermost.
    pub const MMAP_LOCK: Self = Self(1000);
    /// The process's one all_locks lock, under an mmap_lock held for writing.
    pub const ALL_LOCKS: Self = Self(2000);
    /// [`VmaLock`](crate::VmaLock).
    pub const VMA_LOCK: Self = Self(3000);
    /// [`RmapLock`](crate::RmapLock).
    pub const REVERSE_MAP_LOCK: Self = Self(5000);
    /// Locks under which no other is taken.
    pub const LEAF: Self = Self(9000);

    /// The rank at `place`, a number between those above: greater is further down.
    #[must_use]
    pub const fn new(place: u16) -> Self {
        Self(place)
    }
}

const_thread_local! {
    /// How many ranked locks this thread holds or waits for.
    static HELD: Cell<usize> = Cell::new(0)
}

/// This thread holds a lock, or is about to block on it; dropped when the lock is released, on the same thread.
///
/// Zero-sized in release builds.
#[must_use = "the lock counts as held only while this lives"]
#[derive(Debug)]
pub struct Held {
    #[cfg(debug_assertions)]
    lock: checks::Lock,
    /// The count is the thread's, so this stays on it.
    on_this_thread: PhantomData<*const ()>,
}

/// Announces that this thread is about to block on a lock of `rank`, called `name` in messages.
///
/// # Panics
/// In builds with debug assertions, when the thread holds a lock of the same or a greater rank.
#[inline]
#[cfg_attr(debug_assertions, track_caller)]
pub fn acquire(rank: Rank, name: &'static str) -> Held {
    #[cfg(debug_assertions)]
    checks::check(checks::Lock { rank, name });
    acquire_tried(rank, name)
}

/// Announces that this thread got a lock of `rank` without blocking on it, whatever it holds already.
#[cfg_attr(
    not(debug_assertions),
    expect(unused_variables, reason = "only builds with debug assertions check")
)]
#[inline]
pub fn acquire_tried(rank: Rank, name: &'static str) -> Held {
    HELD.with(|held| held.set(held.get() + 1));
    #[cfg(debug_assertions)]
    checks::push(checks::Lock { rank, name });
    Held {
        #[cfg(debug_assertions)]
        lock: checks::Lock { rank, name },
        on_this_thread: PhantomData,
    }
}

/// Whether this thread holds any ranked lock, in every build.
///
/// For operations that take locks of their own from the top and would rather return an error than deadlock.
#[must_use]
#[inline]
pub fn any_held() -> bool {
    HELD.with(|held| held.get() > 0)
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        // loom unwinds the threads of a model that failed after their locals are gone.
        #[cfg(loom)]
        if std::thread::panicking() {
            return;
        }
        HELD.with(|held| held.set(held.get() - 1));
        #[cfg(debug_assertions)]
        checks::pop(self.lock);
    }
}

/// The stack of what a thread holds.
#[cfg(debug_assertions)]
mod checks {
    use std::cell::RefCell;

    use super::Rank;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Lock {
        pub(super) rank: Rank,
        pub(super) name: &'static str,
    }

    crate::sync::const_thread_local! {
        /// In the order of acquisition; increasing in rank but for the locks that were tried.
        static STACK: RefCell<Vec<Lock>> = RefCell::new(Vec::new())
    }

    #[track_caller]
    pub(super) fn check(wanted: Lock) {
        // A destructor that runs after this thread's locals are gone is not checked.
        let deepest = STACK.try_with(|held| held.borrow().iter().copied().max_by_key(|l| l.rank));
        if let Ok(Some(held)) = deepest {
            assert!(
                held.rank < wanted.rank,
                "lock order inverted: {} (rank {}) is taken while {} (rank {}) is held; see mmu_notifier::order",
                wanted.name,
                wanted.rank.0,
                held.name,
                held.rank.0,
            );
        }
    }

    pub(super) fn push(lock: Lock) {
        let _ = STACK.try_with(|held| held.borrow_mut().push(lock));
    }

    pub(super) fn pop(lock: Lock) {
        let _ = STACK.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(at) = held.iter().rposition(|l| *l == lock) {
                held.remove(at);
            }
        });
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
