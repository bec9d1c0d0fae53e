//! Taking entries away whose pages keep their content: those of a shared object.

use std::{
    io,
    ops::{ControlFlow, Range},
};

use mmu_notifier::{AddressRange, Event, Invalidation};

use super::{Mm, bytes_of};
use crate::{
    Gfn, PageSize, Pfn,
    discard::DiscardError,
    pgtable::{Entry, EntryFlags, PtGuard, SlotState},
};

impl Mm {
    /// Takes this address space's entries in `range` away. Where it shares its memory the pages keep their content, and the
    /// next touch finds it; else this is a [`discard`](Self::discard). (Linux: `MADV_DONTNEED`.)
    ///
    /// Of a huge page that reaches beyond the range all of the entry goes. What was written here stays known to
    /// [`dirty_pages`](Self::dirty_pages).
    ///
    /// # Errors
    /// [`DiscardError`].
    pub fn dont_need(&self, range: AddressRange) -> Result<(), DiscardError> {
        if !self.object.is_shared() {
            return self.discard(range).map(drop);
        }
        if !self.range.covers(range) {
            return Err(DiscardError::OutOfRange { range, ram: self.range });
        }
        let mmap = self.vmas.mmap_lock().read();
        let clear = Invalidation::new(self.reached_by(range), Event::Clear);
        let _announced = self.owner.invalidate_range_start(&mmap, clear);
        self.unmap(range, &|_, _| true).map_err(|source| DiscardError::Refused { range, source })
    }

    /// Takes those entries of `range` away that `goes` says, and their references; whoever has to know of it was told.
    pub(super) fn unmap(&self, range: AddressRange, goes: &dyn Fn(Gfn, Entry) -> bool) -> io::Result<()> {
        self.free_stuck(range)?;
        self.cure(range)?;
        let unmapped = self.table.for_each_locked(range, |pt, part| match self.unmap_part(pt, part, goes) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        });
        unmapped.break_value().map_or(Ok(()), Err)
    }

    fn unmap_part(
        &self,
        pt: &mut PtGuard<'_>,
        part: AddressRange,
        goes: &dyn Fn(Gfn, Entry) -> bool,
    ) -> io::Result<()> {
        let pages = match pt.state() {
            SlotState::None => return Ok(()),
            SlotState::Huge(_) => Self::pages_of(pt.block(), PageSize::Huge),
            SlotState::Table => Gfn::of(part.start())..Gfn::of(part.end()),
        };
        // In one call what lies between two that stay.
        let mut start = pages.start;
        let stay = bytes_of(&pages).into_iter().flat_map(|bytes| pt.entries(bytes));
        for (gfn, entry) in stay.filter(|(gfn, entry)| !goes(*gfn, *entry)) {
            self.zap_in_host(start, gfn)?;
            start = gfn.plus(entry.size().pages());
        }
        self.zap_in_host(start, pages.end)?;
        let mut next = pages.start;
        while next < pages.end {
            let gfn = next;
            let entry = pt.entry(gfn);
            next = gfn.plus(entry.size().pages());
            if entry.is_present() && goes(gfn, entry) {
                self.clear(pt, gfn, goes);
            }
        }
        Ok(())
    }

    fn zap_in_host(&self, start: Gfn, end: Gfn) -> io::Result<()> {
        if start < end { self.install.zap(self.offsets(&(start..end))) } else { Ok(()) }
    }

    /// Clears the entry of `gfn`, which the host has no more, unless a reader's mark has made it one that stays.
    fn clear(&self, pt: &mut PtGuard<'_>, gfn: Gfn, goes: &dyn Fn(Gfn, Entry) -> bool) {
        let size = pt.entry(gfn).size();
        let last = match size {
            PageSize::Base => pt.clear_page(gfn),
            PageSize::Huge => pt.clear_huge(),
        };
        if !goes(gfn, last) {
            let restored = match size {
                PageSize::Base => pt.set_page(gfn, last),
                PageSize::Huge => pt.set_huge(last),
            };
            if restored.is_ok() {
                return;
            }
        }
        let (head, size) = last.folio();
        if let Some(folio) = self.folios.borrow(head.index(), size) {
            if self.is_uncollected(gfn, last) {
                let pages = Self::pages_of(gfn, last.size());
                self.note_changed(&self.tracked_in(self.range), &pages);
            }
            if !last.flags().contains(EntryFlags::CLEAN) {
                // Nothing else remembers it.
                folio.set_dirty();
            }
            Self::uncount(folio, last);
            // Never the last: the object has one.
            drop(folio.put_many(1));
        }
    }

    /// Whether somebody would miss what `entry` maps at `gfn` if all of its entries went, as far as the entry says: it was
    /// written and not collected, or is not what the filler supplied any more.
    pub(super) fn would_miss(&self, gfn: Gfn, entry: Entry) -> bool {
        let written = self.has_filler() && !entry.flags().contains(EntryFlags::CLEAN);
        written || self.is_uncollected(gfn, entry)
    }

    /// Whether `entry` was written, and whoever collects that has not seen it. Tracking that begins now counts no earlier
    /// writes.
    pub(super) fn is_uncollected(&self, gfn: Gfn, entry: Entry) -> bool {
        entry.flags().contains(EntryFlags::DIRTY)
            && self.vmas.snapshot().find(gfn.address()).is_some_and(|vma| vma.flags.dirty_tracked)
    }

    /// The part of `guest` that shows the frames of `frames`.
    pub(super) fn showing(&self, frames: &Range<Pfn>, guest: AddressRange) -> Option<AddressRange> {
        bytes_of(&(self.page(frames.start)..self.page(frames.end)))?.intersection(guest)
    }

    /// Notes that the frames `changed` are not what they were, as far as they are shown in `guest` and somebody collects
    /// that.
    pub(super) fn note_removed(&self, guest: AddressRange, changed: &[Range<Pfn>]) {
        let tracked = self.tracked_in(guest);
        for frames in changed.iter().filter(|_| !tracked.is_empty()) {
            self.note_changed(&tracked, &(self.page(frames.start)..self.page(frames.end)));
        }
    }
}
