//! The VMAs of one address space, and the three ways to change them: insert, remove, modify.

use std::{
    marker::PhantomData,
    ops::{ControlFlow, Range},
    sync::Arc,
};

use mmu_notifier::{
    AddressRange, LockedSpace, MmapLock, MmapReadGuard, MmapWriteGuard, PAGE_SIZE,
    lock::{RawLock, ReverseMap, Vma as VmaClass},
    sync::{Mutex, lock},
};

use super::{
    OverCommit, StableVmas, Vma, VmaChange, VmaSpec, Vmas,
    commit::{Commit, never_faulted},
    edit,
    published::Published,
    snapshot::overlap,
};
use crate::{
    planted::{self, Bug},
    rmap::MmId,
};

/// The VMAs of one address space, in address order, with the mmap_lock that they change under.
///
/// The order is a sorted list that is replaced as a whole. Finding an address is a binary search of it and needs no
/// lock; a change copies the list, and costs some nanoseconds for each VMA there is.
#[derive(Debug)]
pub struct VmaTree {
    mm: MmId,
    /// The outermost lock.
    mmap_lock: MmapLock,
    /// Stored under mmap_lock held for writing; loaded by anybody.
    vmas: Published,
    /// Leaf. Changed under mmap_lock held for writing only.
    commit: Mutex<Commit>,
}

/// Why a VMA was not inserted. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// There is a VMA already.
    #[error("{range} overlaps the VMA at {with}: remove that first, or choose another range")]
    Overlap {
        /// The range that was to be inserted.
        range: AddressRange,
        /// The first VMA in its way.
        with: AddressRange,
    },
    /// The range does not fit in the mapping's 64 bits of offsets, or its offset is not a multiple of 4096.
    #[error(
        "{range} cannot show a mapping from offset {offset:#x}: give a multiple of {PAGE_SIZE} that leaves room for it"
    )]
    Offset {
        /// The range that was to be inserted.
        range: AddressRange,
        /// The offset in the mapping, in bytes.
        offset: u64,
    },
    /// It may be written, and that would be too much.
    #[error(transparent)]
    OverCommit(#[from] OverCommit),
}

/// Why nothing was modified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModifyError {
    /// Part of the range is in no VMA.
    #[error("nothing is mapped at {at:#x}, in the middle of {range}: modify only what was inserted")]
    Hole {
        /// The range that was to be modified.
        range: AddressRange,
        /// The first address that is in no VMA.
        at: u64,
    },
    /// It was to become writable, and that would be too much.
    #[error(transparent)]
    OverCommit(#[from] OverCommit),
}

/// What was removed from a tree. No fault is under way in it and none will be, but its entries are still there, and
/// the reverse map still finds it: zap the entries, then drop this. Insert nothing in its place before.
#[must_use = "zap the entries of the range, then drop this"]
#[derive(Debug)]
pub struct Removed<'m> {
    mm: MmId,
    parts: Vec<VmaSpec>,
    /// mmap_lock stays held for writing, so nobody else inserts anything meanwhile.
    mmap: PhantomData<&'m ()>,
}

impl VmaTree {
    /// The empty address space `mm`, whose pages that may be written are at most `commit_limit`, each 4 KiB.
    #[must_use]
    pub fn new(mm: MmId, commit_limit: u64) -> Self {
        Self {
            mm,
            mmap_lock: MmapLock::new(()),
            vmas: Published::default(),
            commit: Mutex::new(Commit::new(commit_limit)),
        }
    }

    /// The lock that everything here changes under.
    #[must_use]
    pub fn mmap_lock(&self) -> &MmapLock {
        &self.mmap_lock
    }

    /// The VMAs as they are now; they may change at once.
    #[must_use]
    pub fn snapshot(&self) -> Vmas {
        Vmas::new(self.vmas.load())
    }

    /// The VMAs as they are for as long as mmap_lock is held: what a fault retries with.
    ///
    /// # Panics
    /// When `mmap` is of another tree.
    #[must_use]
    pub fn under<'m>(&self, mmap: &'m MmapReadGuard<'_>) -> StableVmas<'m> {
        assert!(mmap.is_of(&self.mmap_lock), "the mmap_lock held is another address space's");
        StableVmas::new(self.snapshot())
    }

    /// How many pages of 4 KiB are charged: those that may be written, and those that were written and then made
    /// unwritable.
    #[must_use]
    pub fn committed(&self) -> u64 {
        lock(&self.commit).pages()
    }

    /// How many pages of 4 KiB may be charged.
    #[must_use]
    pub fn commit_limit(&self) -> u64 {
        lock(&self.commit).limit()
    }

    /// Adds what is asked for in a range where nothing is; becomes one with its neighbours where it can.
    ///
    /// The reverse map lists the range before any fault can find it.
    ///
    /// # Errors
    /// [`InsertError`]; nothing has changed then.
    ///
    /// # Panics
    /// When `mmap` is of another tree.
    pub fn insert(&self, mmap: &MmapWriteGuard<'_>, spec: VmaSpec) -> Result<(), InsertError> {
        self.check(mmap);
        let (range, offset) = (spec.range, spec.offset);
        let list = self.vmas.load();
        if let Some(in_the_way) =
            list.get(overlap(&list, range).start).filter(|vma| vma.range.overlaps(range))
        {
            return Err(InsertError::Overlap { range, with: in_the_way.range });
        }
        if AddressRange::new(offset, range.len()).is_err() {
            return Err(InsertError::Offset { range, offset });
        }
        if spec.flags.writable {
            lock(&self.commit).charge(range)?;
        }
        spec.mapping.link(spec.window(self.mm));
        let at = edit::concerned(&list, range);
        let mut specs = edit::cut_out(&list[at.clone()], range);
        specs.insert(specs.partition_point(|other| other.range.start() < range.start()), spec);
        self.replace(&list, at, specs, || ());
        Ok(())
    }

    /// Takes everything out that is in `range`, cutting VMAs at its ends, and gives its charge back. Holes are fine.
    ///
    /// # Panics
    /// When `mmap` is of another tree.
    pub fn remove<'m>(&self, mmap: &'m MmapWriteGuard<'_>, range: AddressRange) -> Removed<'m> {
        self.check(mmap);
        let list = self.vmas.load();
        let at = overlap(&list, range);
        let parts = list[at.clone()].iter().filter_map(|vma| vma.part(range)).collect();
        let specs = edit::cut_out(&list[at.clone()], range);
        self.replace(&list, at, specs, || lock(&self.commit).give_back(range));
        Removed { mm: self.mm, parts, mmap: PhantomData }
    }

    /// Makes one change in all of `range`: cuts VMAs at its ends, and makes neighbours one that have become equal.
    ///
    /// `faulted` returns the first run of pages in the range it is given that were ever faulted in, or none; it is
    /// asked when pages become unwritable, while no fault is under way in them. The rest of them give their charge
    /// back. It is called with mmap_lock held and takes no VMA lock. If it panics nothing is modified, but faults in
    /// these VMAs need mmap_lock until they change.
    ///
    /// When this returns, no fault acts on what was asked for before. What it asks of entries that are there already
    /// is the caller's to do then. VMAs that ask for it already are left alone.
    ///
    /// # Errors
    /// [`ModifyError`]; nothing has changed then.
    ///
    /// # Panics
    /// When `mmap` is of another tree.
    pub fn modify(
        &self,
        mmap: &MmapWriteGuard<'_>,
        range: AddressRange,
        change: &VmaChange,
        faulted: &dyn Fn(AddressRange) -> Option<AddressRange>,
    ) -> Result<(), ModifyError> {
        self.check(mmap);
        let list = self.vmas.load();
        let inside = &list[overlap(&list, range)];
        if let Some(at) = edit::hole(inside, range) {
            return Err(ModifyError::Hole { range, at });
        }
        if *change == VmaChange::Writable(true) {
            lock(&self.commit).charge(range)?;
        }
        let at = edit::concerned(&list, range);
        let specs = edit::changed(&list[at.clone()], range, change);
        self.replace(&list, at, specs, || {
            if *change == VmaChange::Writable(false) {
                let were_writable = inside.iter().filter(|vma| vma.flags.writable);
                let parts = were_writable.filter_map(|vma| vma.range.intersection(range));
                let unused: Vec<_> = parts.flat_map(|part| never_faulted(part, faulted)).collect();
                let mut commit = lock(&self.commit);
                for part in unused {
                    commit.give_back(part);
                }
            }
        });
        Ok(())
    }

    /// Puts VMAs for `specs` in the place of those at `at` in `list`, the current list. `alone` runs when no fault is
    /// under way in those that go, and none can find those that come.
    fn replace(&self, list: &[Arc<Vma>], at: Range<usize>, specs: Vec<VmaSpec>, alone: impl FnOnce()) {
        let old = &list[at.clone()];
        let new = edit::rebuilt(old, specs);
        if old.len() == new.len() && edit::outgoing(old, &new).next().is_none() {
            return;
        }
        let publish = || {
            let all = list[..at.start].iter().chain(&new).chain(&list[at.end..]).cloned();
            self.vmas.publish(all.collect());
        };
        if planted::is(Bug::PublishFirst) {
            publish();
        }
        if !planted::is(Bug::StayAttached) {
            edit::outgoing(old, &new).for_each(|vma| vma.detach());
        }
        alone();
        publish();
    }

    fn check(&self, mmap: &MmapWriteGuard<'_>) {
        assert!(mmap.is_of(&self.mmap_lock), "the mmap_lock held is another address space's");
    }
}

impl Removed<'_> {
    /// What was asked for in each part, in address order.
    #[must_use]
    pub fn parts(&self) -> &[VmaSpec] {
        &self.parts
    }
}

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        for part in &self.parts {
            part.mapping.unlink(part.window(self.mm));
        }
    }
}

impl Drop for VmaTree {
    /// The reverse map finds nothing here any more.
    fn drop(&mut self) {
        for vma in self.vmas.load().iter() {
            vma.mapping.unlink_all(self.mm);
        }
    }
}

impl LockedSpace for VmaTree {
    type Vmas = ();

    fn mmap_lock(&self) -> &MmapLock {
        &self.mmap_lock
    }

    fn vma_locks(
        &self,
        _mmap: &MmapWriteGuard<'_>,
        visit: &mut dyn FnMut(&RawLock<VmaClass>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.vmas.load().iter().try_for_each(|vma: &Arc<Vma>| visit(vma.lock.raw()))
    }

    fn rmap_locks(
        &self,
        _mmap: &MmapWriteGuard<'_>,
        visit: &mut dyn FnMut(&RawLock<ReverseMap>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.vmas.load().iter().try_for_each(|vma| visit(vma.mapping.lock().raw()))
    }
}
