//! Changing what was asked for: flags, huge policy, name, permission to write, tracking of writes.

use std::{collections::BTreeSet, io, ops::ControlFlow};

use mmu_notifier::{AddressRange, Event, Invalidation, sync::lock};

use super::Mm;
use crate::{
    BLOCK_SIZE, Gfn,
    pgtable::{EntryFlags, PtGuard},
    pool::PoolMemory,
    vma::{HugePolicy, ModifyError, VmaChange},
};

/// Why a range was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The VMAs were not changed, and nothing else was.
    #[error(transparent)]
    Vma(#[from] ModifyError),
    /// The range ends in the middle of what may be a huge page, which is changed as a whole or not at all.
    #[error("{range} ends within a huge page; change whole ones, from a multiple of 2 MiB to another")]
    PartOfHugePage {
        /// The range.
        range: AddressRange,
    },
    /// The frames are huge pages of hugetlb, and cannot be mapped in any other size.
    #[error("the frames of {range} are huge pages, and there are no smaller ones to map it by")]
    HugeOnly {
        /// The range.
        range: AddressRange,
    },
    /// The VMAs were changed, and the host did not follow in all of the range: change it again.
    #[error("the host did not change the protection of {range}; change it again")]
    Host {
        /// The range.
        range: AddressRange,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

impl Mm {
    /// Makes one change in all of `range`: VMAs are cut at its ends, and neighbours that have become equal are one.
    ///
    /// When permission to write is given, whoever waits for it goes on; when it is taken away, or writes are to be
    /// tracked, no write gets through unseen once this returns. A huge page has one permission for all of it, so ranges
    /// with huge pages are cut at multiples of 2 MiB only.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn modify(&self, range: AddressRange, change: &VmaChange) -> Result<(), ChangeError> {
        if *change == VmaChange::Huge(HugePolicy::Never) && self.pool().memory() == PoolMemory::Hugetlb {
            return Err(ChangeError::HugeOnly { range });
        }
        let mmap = self.vmas.mmap_lock().write();
        if [range.start(), range.end()].into_iter().any(|end| self.is_in_huge_page(end)) {
            return Err(ChangeError::PartOfHugePage { range });
        }
        let event = match change {
            VmaChange::Writable(false) => Some(Event::ProtectRange),
            VmaChange::DirtyTracked(true) => Some(Event::SoftDirty),
            _ => None,
        };
        let invalidation =
            event.map(|event| self.owner.invalidate_range_start(&mmap, Invalidation::new(range, event)));
        self.vmas.modify(&mmap, range, change, &|part| self.first_faulted(part))?;
        let changed: ControlFlow<io::Error> =
            self.table.for_each_locked(range, |pt, part| match self.change_entries(pt, part, change) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(error),
            });
        if let VmaChange::DirtyTracked(_) = change {
            lock(&self.changed).remove(range);
        }
        drop(invalidation);
        drop(mmap);
        let woken = if *change == VmaChange::Writable(true) { self.wake_denied(range) } else { Ok(()) };
        changed
            .break_value()
            .map_or(Ok(()), Err)
            .and(woken)
            .map_err(|source| ChangeError::Host { range, source })
    }

    /// Wakes whoever was denied a write in `range`, and nobody else.
    fn wake_denied(&self, range: AddressRange) -> io::Result<()> {
        let runs: Vec<_> = {
            let mut denied = lock(&self.denied);
            let runs = denied.runs_in(range).collect();
            denied.remove(range);
            runs
        };
        let mut woken = Ok(());
        for run in runs {
            let start = run.start() - self.range.start();
            if let Err(error) = self.install.wake(start..start + run.len()) {
                // They still wait.
                lock(&self.denied).insert(run);
                woken = Err(error);
            }
        }
        woken
    }

    /// What a change of `range` reaches: at its ends the whole of what may be a huge page, for that changes as one.
    pub(super) fn reached_by(&self, range: AddressRange) -> AddressRange {
        let (mut start, mut end) = (range.start(), range.end());
        if self.is_in_huge_page(start) {
            start = Gfn::of(start).block().address();
        }
        if self.is_in_huge_page(end) {
            end = end.next_multiple_of(BLOCK_SIZE);
        }
        AddressRange::new(start, end - start).unwrap_or(range)
    }

    /// Which pages of `range` have changed since writes are tracked there, or since this was last asked with `clear`, in
    /// ascending order: those that the guest wrote, exactly; those that devices have pinned for writing, which stay dirty
    /// as long as they are pinned; and those that were [discarded](Self::discard), which are as new, mapped or not.
    /// A huge page is written as one: all of its pages are returned, those outside of `range` too.
    ///
    /// # Errors
    /// [`ChangeError::Host`], when `clear` is set and the host did not protect them again. None is forgotten then.
    pub fn dirty_pages(&self, range: AddressRange, clear: bool) -> Result<Vec<Gfn>, ChangeError> {
        let mut dirty = BTreeSet::new();
        let mmap = self.vmas.mmap_lock().write();
        let invalidation = clear
            .then(|| Invalidation::new(self.reached_by(range), Event::SoftDirty))
            .map(|invalidation| self.owner.invalidate_range_start(&mmap, invalidation));
        let collected: ControlFlow<io::Error> = self.table.for_each_locked(range, |pt, part| {
            match self.collect_dirty(pt, part, clear, &mut dirty) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(error),
            }
        });
        let mut changed = lock(&self.changed);
        if let Some(source) = collected.break_value() {
            let pages = dirty.into_iter().filter_map(|gfn: Gfn| super::bytes_of(&(gfn..gfn.plus(1))));
            pages.for_each(|page| changed.insert(page));
            return Err(ChangeError::Host { range, source });
        }
        dirty.extend(changed.runs_in(range).flat_map(Gfn::all_of));
        if clear {
            changed.remove(range);
        }
        drop(changed);
        drop(invalidation);
        Ok(dirty.into_iter().collect())
    }

    fn collect_dirty(
        &self,
        pt: &mut PtGuard<'_>,
        part: AddressRange,
        clear: bool,
        dirty: &mut BTreeSet<Gfn>,
    ) -> io::Result<()> {
        let found: Vec<_> =
            pt.entries(part).filter(|(_, entry)| entry.flags().contains(EntryFlags::DIRTY)).collect();
        for (gfn, entry) in found {
            let pages = Self::pages_of(gfn, entry.size());
            if clear && entry.is_present() {
                // Protected first: a write between the two would be lost.
                self.install.protect(self.offsets(&pages), true)?;
                pt.update(gfn, EntryFlags::WP, EntryFlags::EMPTY);
                // A device may write what it has pinned at any time, and raises no fault.
                if !self.is_pinned(entry) {
                    pt.update(gfn, EntryFlags::EMPTY, EntryFlags::DIRTY);
                }
            }
            dirty.extend((pages.start.get()..pages.end.get()).map(Gfn::new));
        }
        Ok(())
    }

    /// Whether `address` is in the middle of 2 MiB that may be one huge page, or already are.
    fn is_in_huge_page(&self, address: u64) -> bool {
        let gfn = Gfn::of(address);
        let vmas = self.vmas.snapshot();
        let may_be = vmas.find(address).is_some_and(|vma| Self::may_be_huge(vma, gfn));
        gfn != gfn.block() && (may_be || self.table.walk(gfn).is_huge())
    }

    /// The first run of pages in `range` that are mapped, or were and are being taken away.
    fn first_faulted(&self, range: AddressRange) -> Option<AddressRange> {
        let (gfn, entry) = self.table.entries(range).next()?;
        super::bytes_of(&Self::pages_of(gfn, entry.size()))?.intersection(range)
    }

    fn change_entries(&self, pt: &mut PtGuard<'_>, part: AddressRange, change: &VmaChange) -> io::Result<()> {
        let (set, clear, protected) = match change {
            VmaChange::Writable(true) => (EntryFlags::WRITE, EntryFlags::CLEAN, None),
            VmaChange::Writable(false) => (EntryFlags::EMPTY, EntryFlags::WRITE, Some(true)),
            VmaChange::DirtyTracked(true) => (EntryFlags::WP, EntryFlags::DIRTY, Some(true)),
            VmaChange::DirtyTracked(false) => {
                (EntryFlags::EMPTY, EntryFlags::WP | EntryFlags::CLEAN, Some(false))
            }
            VmaChange::Mergeable(_) | VmaChange::Huge(_) | VmaChange::Name(_) => return Ok(()),
        };
        let mut next = Gfn::of(part.start());
        while next < Gfn::of(part.end()) {
            let gfn = next;
            let entry = pt.entry(gfn);
            let pages = Self::pages_of(gfn, entry.size());
            next = pages.end;
            if !entry.is_present() {
                continue;
            }
            // An entry that may be written again is not opened here: its next write faults, and finds the permission.
            let protect = protected.filter(|&protect| protect || entry.flags().contains(EntryFlags::WRITE));
            if let Some(protect) = protect {
                self.install.protect(self.offsets(&pages), protect)?;
            }
            pt.update(gfn, set, clear);
            if *change == VmaChange::DirtyTracked(true) && self.is_pinned(entry) {
                // A device may write it yet, and raises no fault.
                pt.update(gfn, EntryFlags::DIRTY, EntryFlags::EMPTY);
            }
        }
        Ok(())
    }
}
