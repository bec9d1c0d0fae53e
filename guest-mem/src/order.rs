//! The locks that this crate adds to the lock order of [`mmu_notifier::order`]: one tree for both.
//!
//! ```text
//! mmap_lock                    mmu-notifier
//!   all_locks                  mmu-notifier
//!     VMA lock                 mmu-notifier
//!       folio lock             FOLIO_LOCK: sleeps, held while a folio is filled
//!         reverse-map lock     mmu-notifier
//!           page-table lock    PAGE_TABLE_LOCK: one 2 MiB range's, held over the host call that makes its entries true
//!             leaves           a pool's blocks, counters
//! ```

use mmu_notifier::{
    lock::{LockClass, RankedLock, WriteGuard},
    order::Rank,
};

/// The place of the folio lock.
pub(crate) const FOLIO_LOCK: Rank = Rank::new(4000);
/// The place of the page-table lock.
pub(crate) const PAGE_TABLE_LOCK: Rank = Rank::new(6000);

/// The class of [`PtLock`].
#[derive(Debug)]
pub(crate) enum PageTableClass {}

impl LockClass for PageTableClass {
    const RANK: Rank = PAGE_TABLE_LOCK;
    const NAME: &'static str = "page-table lock";
}

/// The lock of the entries of one 2 MiB range. Never held over a callback or a fill.
pub(crate) type PtLock<T = ()> = RankedLock<PageTableClass, T>;
/// The entries of one 2 MiB range are this thread's to change.
pub(crate) type PtLockGuard<'a, T = ()> = WriteGuard<'a, PageTableClass, T>;
