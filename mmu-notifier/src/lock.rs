//! Reader-writer locks that know their place in the [lock order](crate::order).
//!
//! A [`RankedLock`] is a [`RawLock`] of some [`LockClass`] around what it guards. They are our own, and not a library's,
//! because [`take_all_locks`](crate::take_all_locks) holds any number of them without keeping a guard for each, and
//! leaves its mark in the lock's own word.

mod class;
mod ranked;
mod raw;

pub use class::{
    AllLocks, LockClass, Mmap, MmapLock, MmapReadGuard, MmapWriteGuard, ReverseMap, RmapLock, RmapReadGuard,
    RmapWriteGuard, Vma, VmaLock, VmaReadGuard, VmaWriteGuard,
};
pub use ranked::{RankedLock, ReadGuard, WriteGuard};
pub use raw::RawLock;

#[cfg(test)]
#[cfg(loom)]
mod models;

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
