//! Mapping frames: the page that faulted, then its neighbours.
//!
//! What the host has mapped is there for all, so the guest may have written it by the time that a page behind it fails:
//! it is entered, and only the rest is as if nothing had been tried.

use std::ops::Range;

use mmu_notifier::PAGE_SIZE;

use super::{FaultAround, FaultError, FaultReason, InstallError, Mm, fault::Step, taken::Taken};
use crate::{
    BLOCK_PAGES, BLOCK_SIZE, Gfn, PageSize,
    folio::FolioBorrow,
    pgtable::{Entry, EntryFlags, PtGuard, SetError, SlotState},
    pool::PoolMemory,
    vma::{LockedVma, VmaSpec},
};

/// How often the host is asked again for what it said to try again, without getting any further.
const HOST_TRIES: u32 = 8;

/// What became of pages whose frames were there.
#[must_use]
pub(super) struct Mapped {
    /// Those that are mapped and entered: from the first on.
    pages: Range<Gfn>,
    /// Why not the others, which have no frame now.
    missing: Option<FaultError>,
}

impl Mapped {
    /// How many there are.
    pub(super) const fn count(&self) -> u64 {
        self.pages.end.get() - self.pages.start.get()
    }

    /// Whether `gfn` is among them, or why not.
    pub(super) fn has(self, gfn: Gfn) -> Result<(), FaultError> {
        match self.missing {
            Some(error) if !self.pages.contains(&gfn) => Err(error),
            _ => Ok(()),
        }
    }
}

impl Mm {
    /// Maps the base page `gfn`, which is not mapped, then what the window around it lacks.
    pub(super) fn map_base(
        &self,
        mut pt: PtGuard<'_>,
        vma: &LockedVma<'_>,
        gfn: Gfn,
    ) -> Result<Step, FaultError> {
        // Nothing huge is there: the caller looked, under this lock.
        let _exposed = pt.expose_table();
        self.map_zeroed(&mut pt, vma, gfn..gfn.plus(1), PageSize::Base)?.has(gfn)?;
        self.counts.add(FaultReason::Base, 1);
        Ok(Step::Mapped(self.map_around(&mut pt, vma, gfn)))
    }

    /// Maps the huge page of `gfn` in an empty slot, then those behind it whose frames are ready. Where there is no huge
    /// page, but small ones, it is the base page.
    pub(super) fn map_huge(
        &self,
        mut pt: PtGuard<'_>,
        vma: &LockedVma<'_>,
        gfn: Gfn,
    ) -> Result<Step, FaultError> {
        let first = Self::pages_of(gfn, PageSize::Huge);
        let Mapped { pages, missing } = match self.map_zeroed(&mut pt, vma, first.clone(), PageSize::Huge) {
            // What another address space has of it is found by the next look.
            Err(error @ FaultError::NoFrame { .. })
                if self.has_base_frames() && !(self.object.is_shared() && error.is_taken()) =>
            {
                self.counts.add(FaultReason::HugeFallback, 1);
                return self.map_base(pt, vma, gfn);
            }
            mapped => mapped?,
        };
        match missing {
            None => self.counts.add(FaultReason::Huge, 1),
            Some(error) if pages.is_empty() => return Err(error),
            Some(_) => {
                // There are base pages now.
                self.counts.add(FaultReason::HugeFallback, 1);
                return Ok(Step::Again(FaultReason::Concurrent));
            }
        }
        drop(pt);
        let FaultAround { huge_pages, most_huge_pages, .. } = self.around;
        let continued = self.streams.continued(first.start, huge_pages, most_huge_pages);
        let window = continued.unwrap_or(huge_pages);
        let mut mapped = first;
        for _ in 1..window {
            let next = mapped.end;
            if !Self::block_fits(vma.range, next) || !self.map_ready_huge(vma, next) {
                break;
            }
            mapped.end = next.plus(PageSize::Huge.pages());
        }
        self.streams.advance(mapped.start, window, &mapped);
        Ok(Step::Mapped(mapped))
    }

    /// Whether what cannot be huge can be mapped by base pages.
    pub(super) fn has_base_frames(&self) -> bool {
        self.pool().memory() != PoolMemory::Hugetlb
    }

    /// Maps the huge page at `block` if nothing is mapped there and its frames need no work. Whether it did.
    fn map_ready_huge(&self, vma: &LockedVma<'_>, block: Gfn) -> bool {
        let pages = Self::pages_of(block, PageSize::Huge);
        if !self.table.walk(block).is_none() || !self.object.is_ready_huge(&self.frames(&pages)) {
            return false;
        }
        let Ok(mut pt) = self.lock_entries(block) else { return false };
        let mapped = pt.state() == SlotState::None
            && !self.object.is_closed(&self.frames(&pages))
            && self
                .map_zeroed(&mut pt, vma, pages, PageSize::Huge)
                .is_ok_and(|mapped| mapped.missing.is_none());
        self.counts.add(FaultReason::Around, u64::from(mapped));
        mapped
    }

    /// Maps what is not mapped around `gfn`: from there to both sides, as far as the window, the VMA, the 2 MiB range and
    /// the pages that are there allow. Returns what is mapped now.
    fn map_around(&self, pt: &mut PtGuard<'_>, vma: &LockedVma<'_>, gfn: Gfn) -> Range<Gfn> {
        let (window, pages) = self.window(vma, gfn);
        let mut mapped = gfn..gfn.plus(1);
        let filled = self.has_filler();
        let empty = |pt: &PtGuard<'_>, gfn: u64| {
            let gfn = Gfn::new(gfn);
            pt.entry(gfn).is_none() && (!filled || self.object.is_cached(self.frame(gfn)))
        };
        let after = (mapped.end.get()..window.end.get()).take_while(|&gfn| empty(pt, gfn)).count() as u64;
        let before = (window.start.get()..gfn.get()).rev().take_while(|&gfn| empty(pt, gfn)).count() as u64;
        mapped.end = self.map_neighbours(pt, vma, mapped.end..mapped.end.plus(after)).end;
        let ahead = Gfn::new(gfn.get() - before)..gfn;
        if self.map_neighbours(pt, vma, ahead.clone()) == ahead {
            mapped.start = ahead.start;
        }
        self.streams.advance(gfn, pages, &mapped);
        mapped
    }

    /// Maps `pages`, of which there may be none; returns those that are mapped. What fails here fails again, and says
    /// so, when somebody touches it.
    fn map_neighbours(&self, pt: &mut PtGuard<'_>, vma: &LockedVma<'_>, pages: Range<Gfn>) -> Range<Gfn> {
        let none = pages.start..pages.start;
        if pages.is_empty() {
            return none;
        }
        let mapped = self.map_zeroed(pt, vma, pages, PageSize::Base).map_or(none, |mapped| mapped.pages);
        self.counts.add(FaultReason::Around, mapped.end.get() - mapped.start.get());
        mapped
    }

    /// The window around `gfn`, within its 2 MiB range, that a fault there may map, and how many pages that is meant to
    /// be: around it, or if it goes on in order, behind it.
    pub(super) fn window(&self, vma: &VmaSpec, gfn: Gfn) -> (Range<Gfn>, u64) {
        let [least, most] =
            [self.around.base_bytes, self.around.most_base_bytes].map(|bytes| bytes / PAGE_SIZE);
        let (start, pages) = match self.streams.continued(gfn, least, most) {
            Some(pages) => (gfn.get(), pages),
            None => (gfn.get() / least * least, least),
        };
        let end = (start + pages).min(gfn.block().get() + BLOCK_PAGES);
        let [begin, behind] = [vma.range.start(), vma.range.end()].map(|address| Gfn::of(address).get());
        (Gfn::new(start.max(begin))..Gfn::new(end.min(behind)), pages)
    }

    /// Takes frames that are zero for `pages`, none of which is mapped, or where memory is shared what others have there,
    /// and maps them by entries of `size`.
    ///
    /// # Errors
    /// There are no frames, and nothing was done.
    fn map_zeroed(
        &self,
        pt: &mut PtGuard<'_>,
        vma: &VmaSpec,
        pages: Range<Gfn>,
        size: PageSize,
    ) -> Result<Mapped, FaultError> {
        let gfn = pages.start;
        let taken = Taken::zeroed(self, pages, size).map_err(|source| FaultError::NoFrame { gfn, source })?;
        Ok(self.map_taken(pt, vma, taken, size))
    }

    /// Maps the pages of `taken`, none of which is mapped and whose frames hold what the guest shall see, by entries of
    /// `size`.
    pub(super) fn map_taken(
        &self,
        pt: &mut PtGuard<'_>,
        vma: &VmaSpec,
        mut taken: Taken<'_>,
        size: PageSize,
    ) -> Mapped {
        let start = taken.pages().start;
        let (flags, protected) = Self::first_flags(vma);
        let clean = if self.has_filler() && protected { EntryFlags::CLEAN } else { EntryFlags::EMPTY };
        let (count, missing) = self.map_in_host(&mut taken, protected);
        let entered = self.enter_first(pt, &mut taken, count, size, flags | clean);
        Mapped { pages: start..taken.pages().start, missing: entered.err().or(missing) }
    }

    /// Enters the first `count` pages of `taken`, which the host maps: by entries of `size`, or where that is a huge page
    /// of which the host maps only a part, by base entries.
    pub(super) fn enter_first(
        &self,
        pt: &mut PtGuard<'_>,
        taken: &mut Taken<'_>,
        count: u64,
        size: PageSize,
        flags: EntryFlags,
    ) -> Result<(), FaultError> {
        let size = if count.is_multiple_of(size.pages()) { size } else { PageSize::Base };
        if count > 0 && size == PageSize::Base {
            let _exposed = pt.expose_table();
        }
        taken.resize(size);
        for _ in 0..count / size.pages() {
            let gfn = taken.pages().start;
            if let Err(error) = self.enter(pt, gfn, size, flags) {
                // A bug of ours.
                log::error!("guest page {:#x} is not entered: {error}", gfn.get());
                return Err(FaultError::Contended { gfn });
            }
            taken.entered(size.pages());
        }
        Ok(())
    }

    /// Enters the page `gfn`. The frame's folio is made now, with one reference, unless it is shared and has the entry's
    /// already.
    fn enter(
        &self,
        pt: &mut PtGuard<'_>,
        gfn: Gfn,
        size: PageSize,
        flags: EntryFlags,
    ) -> Result<(), EnterError> {
        let pfn = self.frame(gfn);
        if self.object.is_shared() {
            let folio = self.folios.find(pfn.index()).ok_or(EnterError::NoFolio)?;
            // Mapped by pages here, and huge elsewhere perhaps.
            let large = if folio.size() == PageSize::Huge { EntryFlags::LARGE } else { EntryFlags::EMPTY };
            return Self::enter_folio(pt, gfn, folio, Entry::new(pfn, size, flags | large));
        }
        let folio = self.folios.claim(pfn.index(), size)?;
        folio.set_uptodate();
        Self::enter_folio(pt, gfn, *folio, Entry::new(pfn, size, flags))?;
        // The one reference is the entry's from here on.
        folio.unfreeze(1).leak();
        Ok(())
    }

    fn enter_folio(
        pt: &mut PtGuard<'_>,
        gfn: Gfn,
        folio: FolioBorrow<'_>,
        entry: Entry,
    ) -> Result<(), EnterError> {
        match entry.size() {
            PageSize::Base => folio.map_page(entry.pfn().in_block()),
            PageSize::Huge => folio.map_huge(),
        }
        let entered = match entry.size() {
            PageSize::Base => pt.set_page(gfn, entry),
            PageSize::Huge => pt.set_huge(entry),
        };
        entered.map_err(|error| {
            Self::uncount(folio, entry);
            error.into()
        })
    }

    /// `entry` maps `folio` no more.
    pub(super) fn uncount(folio: FolioBorrow<'_>, entry: Entry) {
        match entry.size() {
            PageSize::Base => folio.unmap_page(entry.pfn().in_block()),
            PageSize::Huge => folio.unmap_huge(),
        }
    }

    /// Has the host map the pages of `taken`. How many it maps now, from the first on, and why not the others.
    fn map_in_host(&self, taken: &mut Taken<'_>, protected: bool) -> (u64, Option<FaultError>) {
        let Range { start, end } = self.offsets(taken.pages());
        let page = if self.has_base_frames() { PAGE_SIZE } else { BLOCK_SIZE };
        // Should this end by a panic, nobody knows what the host maps.
        taken.show((end - start) / PAGE_SIZE);
        let (mut at, mut tries) = (start, 0);
        let (missing, doubtful) = loop {
            let gfn = taken.pages().start.plus((at - start) / PAGE_SIZE);
            if at == end {
                break (None, 0);
            }
            if tries == HOST_TRIES {
                break (Some(FaultError::Contended { gfn }), 0);
            }
            tries += 1;
            let done = match self.install.map(at..end, protected) {
                Ok(()) => end - at,
                Err(InstallError::Again { done }) => {
                    self.counts.add(FaultReason::HostAgain, 1);
                    done
                }
                Err(InstallError::Exists { done }) => {
                    // Not known here, so it must not be there. The frame keeps what may have been written by it.
                    self.counts.add(FaultReason::HostExists, 1);
                    let unknown = at + done..(at + done + page).min(end);
                    log::debug!("an unknown entry at {unknown:#x?}");
                    if let Err(source) = self.install.zap(unknown) {
                        at += done;
                        break (Some(FaultError::Stuck { gfn, source }), page / PAGE_SIZE);
                    }
                    done
                }
                Err(error) => break (Some(error.of(gfn)), 0),
            };
            if done > 0 {
                (at, tries) = (at + done, 0);
            }
        };
        let count = (at - start) / PAGE_SIZE;
        taken.show(count + doubtful);
        (count, missing)
    }
}

/// Why a folio was not entered: never, unless there is a bug.
#[derive(Debug, thiserror::Error)]
enum EnterError {
    #[error(transparent)]
    Claim(#[from] crate::folio::ClaimError),
    #[error(transparent)]
    Set(#[from] SetError),
    #[error("its frame belongs to no folio")]
    NoFolio,
}
