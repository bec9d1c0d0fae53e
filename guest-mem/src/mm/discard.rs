//! Taking pages away: start, close and zap, end, and only then the frames.
//!
//! A page that is being taken away is *closed*: its entry says "migrating", so that a fault leaves it alone, and is woken
//! when the frame is back and the entry is none. Until then no reader gets a reference, because the folio is free.
//!
//! A huge page of hugetlb of which only a part is discarded is zeroed there, through the direct map, and stays: the
//! parts are noted, and when all 512 have been noted and the page is zeros as a whole, the frame is freed. Zeros are
//! looked for after the zap, so what the guest has written to a discarded part since is kept.

use std::{
    collections::HashMap,
    io,
    ops::{ControlFlow, Range},
};

use mmu_notifier::{AddressRange, Event, Invalidation, sync::lock};

use super::Mm;
use crate::{
    BLOCK_SIZE, Gfn, PageSize, Pfn,
    discard::{DiscardError, Discarded},
    folio::{ExclusiveFolio, FolioRef},
    frame::PAGES,
    pgtable::{Entry, EntryFlags, PtGuard, SlotState},
    planted::{self, Bug},
};

/// What became of the pages that were to be closed, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Closed {
    pub(super) zeroed_bytes: u64,
    pub(super) pinned_bytes: u64,
}

impl Mm {
    /// Takes the pages of `range` away: when this returns they read as when the RAM was new, but for those that are
    /// pinned, which are left as they are and counted.
    ///
    /// A part of a huge page is zeroed, and reads as zeros also where a filler supplied the first content, until all of the
    /// page was discarded. Where writes are tracked, [`dirty_pages`](Self::dirty_pages) tells of what was mapped and is as
    /// new now. A page that was given up, as its faults had failed for too long, gets another chance.
    ///
    /// Memory that is shared is [removed](super::SharedMemory::remove) from all who show it, and all are told.
    ///
    /// # Errors
    /// [`DiscardError`].
    pub fn discard(&self, range: AddressRange) -> Result<Discarded, DiscardError> {
        if !self.range.covers(range) {
            return Err(DiscardError::OutOfRange { range, ram: self.range });
        }
        let refused = |source| DiscardError::Refused { range, source };
        if self.object.is_shared() {
            let offset = range.start() - self.range.start();
            let offsets = AddressRange::new(offset, range.len()).unwrap_or(range);
            return self.object.remove(offsets).map_err(refused);
        }
        let _alone = lock(&self.closing);
        let mmap = self.vmas.mmap_lock().read();
        let mut all = Closed::default();
        let reached = self.reached_by(range);
        let invalidation = Invalidation::new(reached, Event::Clear);
        let announce = || self.owner.invalidate_range_start(&mmap, invalidation);
        let announced = (!planted::is(Bug::CloseFirst)).then(announce);
        // Both zap, and a page that was given up may be mapped again: by the fault of a neighbour.
        self.free_stuck(range).and_then(|()| self.cure(range)).map_err(refused)?;
        let closing: ControlFlow<io::Error> =
            self.table.for_each_locked(range, |pt, part| match self.close(pt, part) {
                Ok(closed) => {
                    all.zeroed_bytes += closed.zeroed_bytes;
                    all.pinned_bytes += closed.pinned_bytes;
                    ControlFlow::Continue(())
                }
                Err(error) => ControlFlow::Break(error),
            });
        let announced = announced.unwrap_or_else(announce);
        if planted::is(Bug::FreeBeforeEnd) {
            let _opened = self.free_closed(range);
        }
        drop(announced);
        if planted::is(Bug::WakeFirst) {
            let _woken = self.install.wake(0..self.range.len());
        }
        let opened = self.free_closed(range);
        drop(mmap);
        let forgotten = planted::is(Bug::NoWake) || planted::is(Bug::WakeFirst);
        let woken = if forgotten { Ok(()) } else { self.wake_opened(&opened) };
        closing.break_value().map_or(Ok(()), Err).and(woken).map_err(refused)?;
        let Closed { zeroed_bytes, pinned_bytes } = all;
        let freed_bytes = range.len() - zeroed_bytes - pinned_bytes;
        Ok(Discarded { freed_bytes, zeroed_bytes, pinned_bytes })
    }

    /// Takes what is mapped in `part` away from the guest, and closes what nobody has pinned. What is pinned stays
    /// mapped here; whoever touches it faults, and finds it.
    pub(super) fn close(&self, pt: &mut PtGuard<'_>, part: AddressRange) -> io::Result<Closed> {
        let mut closed = Closed::default();
        if pt.state() == SlotState::None {
            return Ok(closed);
        }
        let first = Gfn::of(part.start());
        let huge = pt.entry(first).is_huge();
        if huge && part.len() < BLOCK_SIZE {
            return self.zero_part(pt, part);
        }
        self.install.zap(self.offsets(&(first..Gfn::of(part.end()))))?;
        let tracked = self.tracked_in(part);
        let size = if huge { PageSize::Huge } else { PageSize::Base };
        for gfn in Gfn::all_of(part).step_by(if huge { PAGES } else { 1 }) {
            let entry = pt.entry(gfn);
            if !entry.is_present() {
                continue;
            }
            if self.free_folio(entry) {
                let _was = pt.replace(gfn, entry.migrating());
                self.note_changed(&tracked, &Self::pages_of(gfn, size));
            } else {
                closed.pinned_bytes += size.bytes();
            }
        }
        Ok(closed)
    }

    /// Zeroes a part of a huge page, and closes the page if by now all of it was discarded and is zeros.
    fn zero_part(&self, pt: &mut PtGuard<'_>, part: AddressRange) -> io::Result<Closed> {
        let gfn = Gfn::of(part.start());
        let (entry, block) = (pt.entry(gfn), gfn.block());
        if !entry.is_present() {
            return Ok(Closed::default());
        }
        // Nobody pins it from here on: what a device writes is not zeroed behind it.
        let Some(folio) = self.freeze(entry) else {
            return Ok(Closed { pinned_bytes: part.len(), ..Closed::default() });
        };
        let tracked = self.tracked_in(part);
        self.note_changed(&tracked, &(gfn..Gfn::of(part.end())));
        // Not what the filler supplied any more.
        pt.update(block, EntryFlags::EMPTY, EntryFlags::CLEAN);
        let is_zero = self.zero_frozen(block, part);
        if let Ok(true) = is_zero {
            folio.unmap_huge();
            folio.free();
            let _was = pt.replace(block, entry.migrating());
            self.note_changed(&tracked, &Self::pages_of(block, PageSize::Huge));
        } else {
            folio.unfreeze(1).leak();
        }
        is_zero.map(|_| Closed { zeroed_bytes: part.len(), ..Closed::default() })
    }

    /// Zeroes `part` of the huge page at `block`. Whether by now all of it was discarded and is zeros, and it is mapped
    /// nowhere.
    fn zero_frozen(&self, block: Gfn, part: AddressRange) -> io::Result<bool> {
        let frames = self.frames(&(Gfn::of(part.start())..Gfn::of(part.end())));
        self.pool().zero(frames.clone()).map_err(io::Error::other)?;
        if !lock(&self.object.discarded_parts).note(&frames) {
            return Ok(false);
        }
        let pages = Self::pages_of(block, PageSize::Huge);
        self.install.zap(self.offsets(&pages))?;
        // What the guest has written there since is seen.
        self.object.is_zero(&self.frames(&pages))
    }

    /// Where in `part`, or in a huge page around it, writes are tracked. No VMA changes meanwhile: mmap_lock is held, or
    /// this is the end; or what was removed from all comes before the change, or after it.
    pub(super) fn tracked_in(&self, part: AddressRange) -> Vec<AddressRange> {
        let vmas = self.vmas.snapshot();
        let tracked = vmas.overlapping(self.reached_by(part)).filter(|vma| vma.flags.dirty_tracked);
        tracked.map(|vma| vma.range).collect()
    }

    /// Notes that `pages` are not what they were, as far as somebody collects that.
    pub(super) fn note_changed(&self, tracked: &[AddressRange], pages: &Range<Gfn>) {
        let Some(bytes) = super::bytes_of(pages) else { return };
        for range in tracked.iter().filter_map(|range| range.intersection(bytes)) {
            lock(&self.changed).insert(range);
        }
    }

    /// Ends the use of the folio that `entry` maps, if nobody but entries has a reference to it.
    pub(super) fn free_folio(&self, entry: Entry) -> bool {
        let (head, size) = entry.folio();
        let Some(folio) = self.folios.borrow(head.index(), size) else { return false };
        if planted::is(Bug::LookThenFree) && folio.references() == 1 {
            folio.unmap_page(0);
            drop(folio.put_many(1));
            return true;
        }
        let Some(folio) = self.freeze(entry) else { return false };
        match size {
            PageSize::Base => folio.unmap_page(0),
            PageSize::Huge => folio.unmap_huge(),
        }
        folio.free();
        true
    }

    /// The folio that `entry` maps, for this thread alone, if nobody has pinned it.
    fn freeze(&self, entry: Entry) -> Option<ExclusiveFolio<'_>> {
        let (head, size) = entry.folio();
        let entrys = self.folios.borrow(head.index(), size)?.adopt();
        entrys.freeze(1).map_err(FolioRef::leak).ok()
    }

    /// Gives the frames of what was closed in `range` back, and opens it: a fault maps it anew. Returns what was opened,
    /// where whoever faulted was left alone and is to be woken.
    #[must_use = "whoever faulted there is to be woken"]
    pub(super) fn free_closed(&self, range: AddressRange) -> Vec<Range<Gfn>> {
        let mut late = Vec::new();
        let mut opened: Vec<Range<Gfn>> = Vec::new();
        let _: ControlFlow<()> = self.table.for_each_locked(range, |pt, part| {
            let mut next = Gfn::of(part.start());
            while next < Gfn::of(part.end()) {
                let gfn = next;
                let entry = pt.entry(gfn);
                let pages = Self::pages_of(gfn, entry.size());
                next = pages.end;
                if !entry.is_migrating() {
                    continue;
                }
                match opened.last_mut() {
                    Some(last) if last.end == pages.start => last.end = pages.end,
                    _ => opened.push(pages.clone()),
                }
                if planted::is(Bug::OpenFirst) {
                    late.push(pages);
                } else {
                    self.object.give_back(&self.frames(&pages));
                }
                match entry.size() {
                    PageSize::Base => pt.clear_page(gfn),
                    PageSize::Huge => {
                        lock(&self.object.discarded_parts).forget(self.frame(gfn.block()));
                        pt.clear_huge()
                    }
                };
            }
            ControlFlow::Continue(())
        });
        for pages in late {
            self.object.give_back(&self.frames(&pages));
        }
        opened
    }

    /// Lets whoever faulted on what was closed until now fault again. All of them, also when the host refuses one.
    pub(super) fn wake_opened(&self, opened: &[Range<Gfn>]) -> io::Result<()> {
        let mut result = Ok(());
        for pages in opened {
            result = result.and(self.install.wake(self.offsets(pages)));
        }
        result
    }
}

/// Which parts of huge pages were discarded.
#[derive(Debug, Default)]
pub(super) struct DiscardedParts(HashMap<Pfn, [u64; PAGES / 64]>);

impl DiscardedParts {
    /// Notes `part` of a huge page. Whether all of it was discarded by now; then nothing is noted any more.
    pub(super) fn note(&mut self, part: &Range<Pfn>) -> bool {
        let block = part.start.block();
        let noted = self.0.entry(block).or_default();
        for page in (0..part.end.index() - part.start.index()).map(|at| part.start.plus(at).in_block()) {
            noted[page / 64] |= 1 << (page % 64);
        }
        let all = noted.iter().all(|word| *word == u64::MAX);
        if all {
            self.forget(block);
        }
        all
    }

    pub(super) fn forget(&mut self, block: Pfn) {
        self.0.remove(&block);
    }
}
