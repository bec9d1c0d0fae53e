//! The VMAs of an address space at one moment, and finding one in them.

use std::{
    marker::PhantomData,
    ops::{Deref, Range},
    sync::Arc,
};

use mmu_notifier::{AddressRange, VmaReadGuard};

use super::{Attachment, Vma, published::Loaded};
use crate::planted::{self, Bug};

/// VMAs in address order; no two overlap, and no two neighbours could be one.
pub(super) type VmaList = Vec<Arc<Vma>>;

/// The VMAs of an address space as they were when this was taken.
///
/// Meant to be short-lived: it keeps the VMAs of its time in memory.
pub struct Vmas(Loaded);

/// The VMAs of an address space, and they do not change: its mmap_lock is held.
pub struct StableVmas<'m> {
    vmas: Vmas,
    mmap: PhantomData<&'m ()>,
}

/// What became of an attempt to lock the VMA of an address.
#[must_use]
#[derive(Debug)]
pub enum LookedUp<'v> {
    /// It is locked for reading, and is what the tree says now.
    Locked(LockedVma<'v>),
    /// Somebody has its lock for writing or waits for that: retry under mmap_lock.
    Contended,
    /// It was replaced or removed since the snapshot was taken: retry under mmap_lock.
    Detached,
    /// There was none at that address when the snapshot was taken.
    None,
}

/// A VMA locked for reading: it stays in its tree, as it is, until this is dropped.
#[must_use = "the lock is released when this is dropped"]
#[derive(Debug)]
pub struct LockedVma<'v> {
    vma: &'v Arc<Vma>,
    guard: VmaReadGuard<'v, Attachment>,
}

impl Vmas {
    pub(super) fn new(list: Loaded) -> Self {
        Self(list)
    }

    /// Tries to lock the VMA at the guest-physical `address`, without waiting and without mmap_lock.
    pub fn lock(&self, address: u64) -> LookedUp<'_> {
        let Some(vma) = self.find(address) else { return LookedUp::None };
        let Some(guard) = vma.lock.try_read() else { return LookedUp::Contended };
        if *guard == Attachment::Detached && !planted::is(Bug::IgnoreDetached) {
            return LookedUp::Detached;
        }
        LookedUp::Locked(LockedVma { vma, guard })
    }

    /// The VMA at the guest-physical `address`, without its lock: for reports, or under mmap_lock.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<&Arc<Vma>> {
        let vma = self.0.get(self.0.partition_point(|vma| vma.range.end() <= address))?;
        vma.range.contains(address).then_some(vma)
    }

    /// All VMAs, in address order.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Vma>> + DoubleEndedIterator {
        self.0.iter()
    }

    /// The VMAs that have a page in `range`, in address order.
    #[must_use]
    pub fn overlapping(&self, range: AddressRange) -> impl DoubleEndedIterator<Item = &Arc<Vma>> {
        self.0[overlap(&self.0, range)].iter()
    }
}

impl StableVmas<'_> {
    pub(super) fn new(vmas: Vmas) -> Self {
        Self { vmas, mmap: PhantomData }
    }

    /// Locks the VMA at the guest-physical `address` for reading, if there is one.
    ///
    /// Never sleeps: only who holds mmap_lock for writing takes VMA locks for writing. The mark is not looked at
    /// either; what is in the tree under mmap_lock counts.
    ///
    /// # Panics
    /// In debug builds, when this thread holds a VMA lock or a lock under it.
    #[must_use]
    pub fn lock(&self, address: u64) -> Option<LockedVma<'_>> {
        let vma = self.vmas.find(address)?;
        Some(LockedVma { vma, guard: vma.lock.read() })
    }
}

impl Deref for StableVmas<'_> {
    type Target = Vmas;

    fn deref(&self) -> &Vmas {
        &self.vmas
    }
}

impl<'v> LockedVma<'v> {
    /// The VMA, for keeping it longer than its lock.
    #[must_use]
    pub fn vma(&self) -> &'v Arc<Vma> {
        self.vma
    }

    /// The lock's guard: the witness for an invalidation in the VMA.
    pub fn guard(&self) -> &VmaReadGuard<'v, Attachment> {
        &self.guard
    }
}

impl Deref for LockedVma<'_> {
    type Target = Vma;

    fn deref(&self) -> &Vma {
        self.vma
    }
}

/// Where in `list` the VMAs are that have a page in `range`.
pub(super) fn overlap(list: &[Arc<Vma>], range: AddressRange) -> Range<usize> {
    list.partition_point(|vma| vma.range.end() <= range.start())
        ..list.partition_point(|vma| vma.range.start() < range.end())
}
