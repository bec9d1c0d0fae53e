//! Which locks there are, and the order among them.

use super::ranked::{RankedLock, ReadGuard, WriteGuard};
use crate::order::Rank;

/// What locks of one kind have in common. A type without values; owners define their own for the ranks they add.
pub trait LockClass {
    /// Their place in the [lock order](crate::order).
    const RANK: Rank;
    /// What messages call such a lock.
    const NAME: &'static str;
}

/// The class of [`MmapLock`].
#[derive(Debug)]
pub enum Mmap {}

impl LockClass for Mmap {
    const RANK: Rank = Rank::MMAP_LOCK;
    const NAME: &'static str = "mmap_lock";
}

/// The class of the process's one all_locks lock.
#[derive(Debug)]
pub enum AllLocks {}

impl LockClass for AllLocks {
    const RANK: Rank = Rank::ALL_LOCKS;
    const NAME: &'static str = "all_locks";
}

/// The class of [`VmaLock`].
#[derive(Debug)]
pub enum Vma {}

impl LockClass for Vma {
    const RANK: Rank = Rank::VMA_LOCK;
    const NAME: &'static str = "VMA lock";
}

/// The class of [`RmapLock`].
#[derive(Debug)]
pub enum ReverseMap {}

impl LockClass for ReverseMap {
    const RANK: Rank = Rank::REVERSE_MAP_LOCK;
    const NAME: &'static str = "reverse-map lock";
}

/// The lock of one address space, outermost in the order: held for writing, no VMA comes, goes or changes.
///
/// Its write guard is a witness: a function that needs this takes `&MmapWriteGuard`.
pub type MmapLock<T = ()> = RankedLock<Mmap, T>;
/// Some address space's VMAs do not change.
pub type MmapReadGuard<'a, T = ()> = ReadGuard<'a, Mmap, T>;
/// Some address space's VMAs are this thread's to change.
pub type MmapWriteGuard<'a, T = ()> = WriteGuard<'a, Mmap, T>;

/// The lock of one VMA, under mmap_lock and all_locks. A fault holds it for reading, and needs no mmap_lock then.
///
/// The fault path tries it while it holds nothing, and drops it before it takes mmap_lock.
pub type VmaLock<T = ()> = RankedLock<Vma, T>;
/// Some VMA does not change, and does not go away.
pub type VmaReadGuard<'a, T = ()> = ReadGuard<'a, Vma, T>;
/// Some VMA is this thread's to change, and no fault is under way in it.
pub type VmaWriteGuard<'a, T = ()> = WriteGuard<'a, Vma, T>;

/// The lock of who maps a thing: it lives in what the owner maps (an anonymous root, a mapping), which VMAs of several
/// address spaces may share. Under the VMA lock; never two at once but by [`take_all_locks`](crate::take_all_locks),
/// whose mark "already taken" is kept in the lock.
pub type RmapLock<T = ()> = RankedLock<ReverseMap, T>;
/// Who maps the thing does not change.
pub type RmapReadGuard<'a, T = ()> = ReadGuard<'a, ReverseMap, T>;
/// Who maps the thing is this thread's to change.
pub type RmapWriteGuard<'a, T = ()> = WriteGuard<'a, ReverseMap, T>;
