//! The locks of a pool, below all others of the crate: a block's, and under it one of the pool's tables.

use mmu_notifier::{
    lock::{LockClass, RankedLock},
    order::Rank,
};

/// The class of [`BlockLock`].
#[derive(Debug)]
pub(super) enum BlockClass {}

impl LockClass for BlockClass {
    const RANK: Rank = Rank::new(8900);
    const NAME: &'static str = "pool block lock";
}

/// The class of [`TableLock`].
#[derive(Debug)]
pub(super) enum TableClass {}

impl LockClass for TableClass {
    const RANK: Rank = Rank::LEAF;
    const NAME: &'static str = "pool table lock";
}

/// The lock of one block's frames, held over the host calls that populate, zero and punch them.
///
/// Like all of its kind it is fair to who waits: a fault gets it between two steps of the worker.
pub(super) type BlockLock<T> = RankedLock<BlockClass, T>;
/// The lock of the addresses, of the list of stretches, or of the budget: one at a time, over nothing that sleeps.
pub(super) type TableLock<T> = RankedLock<TableClass, T>;
