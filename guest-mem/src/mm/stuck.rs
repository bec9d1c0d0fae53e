//! Pages that the host may map and that are not entered: their frames stay taken.
//!
//! It takes a panic between the two, or a host that neither maps a page nor takes it back. The guest may have written
//! such a page, so its frame is neither given back nor zeroed; whoever faults there next enters it as it is. Where memory is
//! shared, it is the reference of the entry to be that stays.

use std::{io, ops::Range};

use mmu_notifier::{
    AddressRange,
    sync::{Mutex, Tally, lock},
};

use super::{FaultError, Mm, bytes_of, taken::Taken};
use crate::{
    BLOCK_PAGES, Gfn, PageSize,
    pgtable::{EntryFlags, PtGuard, SlotState},
    pool::PoolMemory,
    vma::{LockedVma, VmaSpec},
};

/// The pages of one address space that are stuck.
#[derive(Debug, Default)]
pub(super) struct Stuck {
    /// How many ranges there are, for those who would rather not take the lock. Orders nothing: a range is stuck and freed
    /// under its page-table lock.
    count: Tally,
    /// A leaf. Each range lies in one of 2 MiB. Empty unless something went wrong.
    ranges: Mutex<Vec<Range<Gfn>>>,
}

impl Stuck {
    /// Adds `pages`, of one 2 MiB range whose lock is held.
    pub(super) fn push(&self, pages: Range<Gfn>) {
        let mut all = lock(&self.ranges);
        all.push(pages);
        self.count.set(all.len() as u64);
    }

    /// Takes the pages of `range` out, of one 2 MiB range whose lock is held.
    fn take(&self, range: &Range<Gfn>) -> Vec<Range<Gfn>> {
        if self.count.get() == 0 {
            return Vec::new();
        }
        let mut all = lock(&self.ranges);
        let (inside, mut rest): (Vec<_>, Vec<_>) = all.drain(..).partition(|pages| overlap(pages, range));
        for pages in &inside {
            let outside = [pages.start..range.start, range.end..pages.end];
            rest.extend(outside.into_iter().filter(|part| part.start < part.end));
        }
        *all = rest;
        self.count.set(all.len() as u64);
        let cut = |pages: Range<Gfn>| pages.start.max(range.start)..pages.end.min(range.end);
        inside.into_iter().map(cut).collect()
    }

    /// The stuck range that has `gfn`.
    fn find(&self, gfn: Gfn) -> Option<Range<Gfn>> {
        if self.count.get() == 0 {
            return None;
        }
        lock(&self.ranges).iter().find(|pages| pages.contains(&gfn)).cloned()
    }

    /// The first page of each.
    fn all(&self) -> Vec<Gfn> {
        if self.count.get() == 0 {
            return Vec::new();
        }
        lock(&self.ranges).iter().map(|pages| pages.start).collect()
    }

    /// The 2 MiB ranges of those that have a page in `range`.
    fn blocks_in(&self, range: AddressRange) -> Vec<Gfn> {
        if self.count.get() == 0 {
            return Vec::new();
        }
        let concerned = |pages: &&Range<Gfn>| bytes_of(pages).is_some_and(|bytes| bytes.overlaps(range));
        lock(&self.ranges).iter().filter(concerned).map(|pages| pages.start.block()).collect()
    }
}

fn overlap(one: &Range<Gfn>, other: &Range<Gfn>) -> bool {
    one.start < other.end && other.start < one.end
}

impl Mm {
    /// Enters what is stuck around `gfn`, with what it holds.
    ///
    /// # Errors
    /// [`FaultError::Stuck`] if the host may let writes through that are to be seen or forbidden.
    pub(super) fn enter_stuck(
        &self,
        pt: &mut PtGuard<'_>,
        vma: &LockedVma<'_>,
        gfn: Gfn,
    ) -> Result<(), FaultError> {
        let Some(pages) = self.stuck.find(gfn) else { return Ok(()) };
        // It may have been cut since.
        let [start, end] = [vma.range.start(), vma.range.end()].map(Gfn::of);
        let pages = pages.start.max(start)..pages.end.min(end);
        let _stuck = self.stuck.take(&pages);
        let mut taken = Taken::shown(self, pages.clone());
        let (flags, protected) = Self::first_flags(vma);
        if protected {
            self.install
                .protect(self.offsets(&pages), true)
                .map_err(|source| FaultError::Stuck { gfn, source })?;
        }
        let count = pages.end.get() - pages.start.get();
        let whole =
            count == BLOCK_PAGES && Self::may_be_huge(vma, gfn) && self.object.fits_huge(self.frame(gfn));
        let size = if pt.state() == SlotState::None && whole { PageSize::Huge } else { PageSize::Base };
        // Who writes is not known.
        self.enter_first(pt, &mut taken, count, size, flags | EntryFlags::DIRTY)
    }

    /// Enters all that is stuck, as far as the host lets it be.
    pub(crate) fn enter_all_stuck(&self) {
        for gfn in self.stuck.all() {
            let mmap = self.vmas.mmap_lock().read();
            let vmas = self.vmas.under(&mmap);
            let Some(vma) = vmas.lock(gfn.address()) else { continue };
            let entered = self.lock_entries(gfn).and_then(|mut pt| self.enter_stuck(&mut pt, &vma, gfn));
            if let Err(error) = entered {
                log::warn!("{error}");
            }
        }
    }

    /// Gives the frames of what is stuck in `range` back to the pool, whatever they hold; of a huge page of which only a
    /// part is in it, that part is zeroed. Shared memory keeps its content, and only the host's entries go.
    ///
    /// # Errors
    /// What the host said at the first that it does not take back.
    pub(super) fn free_stuck(&self, range: AddressRange) -> io::Result<()> {
        for block in self.stuck.blocks_in(range) {
            let pt = self.lock_entries(block).map_err(io::Error::other)?;
            self.free_stuck_of(&pt, range)?;
        }
        Ok(())
    }

    fn free_stuck_of(&self, pt: &PtGuard<'_>, range: AddressRange) -> io::Result<()> {
        let block = Self::pages_of(pt.block(), PageSize::Huge);
        let asked = Gfn::of(range.start()).max(block.start)..Gfn::of(range.end()).min(block.end);
        let is_part = self.pool().memory() == PoolMemory::Hugetlb && asked != block;
        let shared = self.object.is_shared();
        let tracked = if shared { Vec::new() } else { self.tracked_in(range) };
        let mut result = Ok(());
        for pages in self.stuck.take(if is_part { &block } else { &asked }) {
            self.note_changed(&tracked, if is_part { &asked } else { &pages });
            if is_part && !shared {
                result = result.and(self.pool().zero(self.frames(&asked)).map_err(io::Error::other));
                self.stuck.push(pages);
                continue;
            }
            match self.install.zap(self.offsets(&pages)) {
                Ok(()) if shared => self.object.release_written(&self.frames(&pages)),
                Ok(()) => self.object.give_back(&self.frames(&pages)),
                Err(error) => {
                    self.stuck.push(pages);
                    result = result.and(Err(error));
                }
            }
        }
        result
    }

    /// The flags that a page of `vma` is mapped with at first, and whether writes to it fault.
    pub(super) fn first_flags(vma: &VmaSpec) -> (EntryFlags, bool) {
        let flags = match (vma.flags.writable, vma.flags.dirty_tracked) {
            (true, false) => EntryFlags::WRITE | EntryFlags::YOUNG,
            (true, true) => EntryFlags::WRITE | EntryFlags::WP | EntryFlags::YOUNG,
            (false, false) => EntryFlags::YOUNG,
            // For when writes are allowed.
            (false, true) => EntryFlags::WP | EntryFlags::YOUNG,
        };
        (flags, !vma.flags.writable || vma.flags.dirty_tracked)
    }
}
