//! Mapping zeroed frames: the page that faulted, then its neighbours, then the wake.

use std::ops::Range;

use mmu_notifier::PAGE_SIZE;

use super::{FaultAround, FaultError, FaultReason, InstallError, Mm, fault::Resolved};
use crate::{
    BLOCK_PAGES, Gfn, PageSize,
    pgtable::{Entry, EntryFlags, PtGuard, SetError},
    pool::TakeError,
    vma::{LockedVma, VmaSpec},
};

/// How often the host is asked again for what it said to try again.
const HOST_TRIES: u32 = 8;

impl Mm {
    /// Maps the base page `gfn`, which is not mapped, then what the window around it lacks.
    pub(super) fn map_base(
        &self,
        mut pt: PtGuard<'_>,
        vma: &LockedVma<'_>,
        gfn: Gfn,
    ) -> Result<Resolved, FaultError> {
        // Nothing huge is there: the caller looked, under this lock.
        let _exposed = pt.expose_table();
        self.map_zeroed(&mut pt, vma, gfn..gfn.plus(1), PageSize::Base)?;
        self.counts.add(FaultReason::Base, 1);
        let around = self.map_around(&mut pt, vma, gfn);
        drop(pt);
        // One call for all: those who wait for a neighbour find it mapped.
        self.install.wake(self.offsets(&around)).map_err(|source| FaultError::Host { gfn, source })?;
        Ok(Resolved::Done)
    }

    /// Maps the huge page of `gfn` in an empty slot, then those behind it whose frames are ready.
    pub(super) fn map_huge(
        &self,
        mut pt: PtGuard<'_>,
        vma: &LockedVma<'_>,
        gfn: Gfn,
    ) -> Result<Resolved, FaultError> {
        let first = Self::pages_of(gfn, PageSize::Huge);
        self.map_zeroed(&mut pt, vma, first.clone(), PageSize::Huge)?;
        self.counts.add(FaultReason::Huge, 1);
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
        self.install.wake(self.offsets(&mapped)).map_err(|source| FaultError::Host { gfn, source })?;
        Ok(Resolved::Done)
    }

    /// Maps the huge page at `block` if nothing is mapped there and its frames need no work. Whether it did.
    fn map_ready_huge(&self, vma: &LockedVma<'_>, block: Gfn) -> bool {
        let pages = Self::pages_of(block, PageSize::Huge);
        if !self.table.walk(block).is_none() || !self.pool().is_stocked(&self.frames(&pages)) {
            return false;
        }
        let Ok(mut pt) = self.lock_entries(block) else { return false };
        let empty = pt.state() == crate::pgtable::SlotState::None;
        let mapped = empty && self.map_zeroed(&mut pt, vma, pages, PageSize::Huge).is_ok();
        self.counts.add(FaultReason::Around, u64::from(mapped));
        mapped
    }

    /// Maps what is not mapped around `gfn`: from there to both sides, as far as the window, the VMA, the 2 MiB range and
    /// the pages that are there allow. Returns what is mapped now.
    fn map_around(&self, pt: &mut PtGuard<'_>, vma: &LockedVma<'_>, gfn: Gfn) -> Range<Gfn> {
        let (window, pages) = self.window(vma, gfn);
        let mut mapped = gfn..gfn.plus(1);
        let empty = |pt: &PtGuard<'_>, gfn: u64| pt.entry(Gfn::new(gfn)).is_none();
        let after = (mapped.end.get()..window.end.get()).take_while(|&gfn| empty(pt, gfn)).count() as u64;
        let before = (window.start.get()..gfn.get()).rev().take_while(|&gfn| empty(pt, gfn)).count() as u64;
        let behind = mapped.end..mapped.end.plus(after);
        let ahead = Gfn::new(gfn.get() - before)..gfn;
        // What fails here fails again, and says so, when somebody touches it.
        if after > 0 && self.map_zeroed(pt, vma, behind.clone(), PageSize::Base).is_ok() {
            mapped.end = behind.end;
            self.counts.add(FaultReason::Around, after);
        }
        if before > 0 && self.map_zeroed(pt, vma, ahead.clone(), PageSize::Base).is_ok() {
            mapped.start = ahead.start;
            self.counts.add(FaultReason::Around, before);
        }
        self.streams.advance(gfn, pages, &mapped);
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

    /// Takes frames that are zero for `pages`, none of which is mapped, and maps them by entries of `size`. All, or none.
    fn map_zeroed(
        &self,
        pt: &mut PtGuard<'_>,
        vma: &VmaSpec,
        pages: Range<Gfn>,
        size: PageSize,
    ) -> Result<(), FaultError> {
        let gfn = pages.start;
        self.pool().take_zeroed(self.frames(&pages)).map_err(|source| no_frame(gfn, source))?;
        self.map_taken(pt, vma, pages.clone(), size).inspect_err(|error| {
            if !matches!(error, FaultError::Stuck { .. }) {
                // The host maps none of it now.
                self.give_back(&pages);
            }
        })
    }

    /// Maps `pages`, none of which is mapped and whose frames are this caller's and hold what the guest shall see. All, or
    /// none.
    pub(super) fn map_taken(
        &self,
        pt: &mut PtGuard<'_>,
        vma: &VmaSpec,
        pages: Range<Gfn>,
        size: PageSize,
    ) -> Result<(), FaultError> {
        let flags = Self::first_flags(vma);
        let protected = !flags.contains(EntryFlags::WRITE) || flags.contains(EntryFlags::WP);
        self.map_in_host(&pages, protected)?;
        let mut gfn = pages.start;
        while gfn < pages.end {
            if let Err(error) = self.enter(pt, gfn, size, flags) {
                // A bug of ours, and the guest must not run into it: as if nothing had been mapped.
                log::error!("guest page {:#x} is not entered: {error}", gfn.get());
                self.leave(pt, pages.start..gfn, size);
                self.zap(&pages)?;
                return Err(FaultError::Contended { gfn });
            }
            gfn = gfn.plus(size.pages());
        }
        Ok(())
    }

    /// Claims the folio of `gfn`'s frame, and enters it.
    fn enter(
        &self,
        pt: &mut PtGuard<'_>,
        gfn: Gfn,
        size: PageSize,
        flags: EntryFlags,
    ) -> Result<(), EnterError> {
        let pfn = self.frame(gfn);
        let folio = self.folios.claim(pfn.index(), size)?;
        folio.set_uptodate();
        match size {
            PageSize::Base => folio.map_page(0),
            PageSize::Huge => folio.map_huge(),
        }
        let entry = Entry::new(pfn, size, flags);
        let entered = match size {
            PageSize::Base => pt.set_page(gfn, entry),
            PageSize::Huge => pt.set_huge(entry),
        };
        if let Err(error) = entered {
            match size {
                PageSize::Base => folio.unmap_page(0),
                PageSize::Huge => folio.unmap_huge(),
            }
            return Err(error.into());
        }
        // The one reference is the entry's from here on.
        folio.unfreeze(1).leak();
        Ok(())
    }

    /// Takes entries away that [`enter`](Self::enter) has just made.
    fn leave(&self, pt: &mut PtGuard<'_>, pages: Range<Gfn>, size: PageSize) {
        let mut gfn = pages.start;
        while gfn < pages.end {
            match size {
                PageSize::Base => pt.clear_page(gfn),
                PageSize::Huge => pt.clear_huge(),
            };
            if let Some(folio) = self.folios.borrow(self.frame(gfn).index(), size) {
                match size {
                    PageSize::Base => folio.unmap_page(0),
                    PageSize::Huge => folio.unmap_huge(),
                }
                drop(folio.put_many(1));
            }
            gfn = gfn.plus(size.pages());
        }
    }

    /// The flags that a page of `vma` is mapped with at first.
    fn first_flags(vma: &VmaSpec) -> EntryFlags {
        match (vma.flags.writable, vma.flags.dirty_tracked) {
            (true, false) => EntryFlags::WRITE | EntryFlags::YOUNG,
            (true, true) => EntryFlags::WRITE | EntryFlags::WP | EntryFlags::YOUNG,
            (false, false) => EntryFlags::YOUNG,
            // For when writes are allowed.
            (false, true) => EntryFlags::WP | EntryFlags::YOUNG,
        }
    }

    /// Has the host map all of `pages`, or none.
    fn map_in_host(&self, pages: &Range<Gfn>, protected: bool) -> Result<(), FaultError> {
        let gfn = pages.start;
        let all = self.offsets(pages);
        let mut rest = all.clone();
        for _ in 0..HOST_TRIES {
            let error = match self.install.map(rest.clone(), protected) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match error {
                InstallError::Again { done } => {
                    self.counts.add(FaultReason::HostAgain, 1);
                    rest.start += done;
                }
                InstallError::Exists { done } => {
                    // Not known here, so it must not be there.
                    self.counts.add(FaultReason::HostExists, 1);
                    log::debug!("an unknown entry, {done:#x} bytes into {rest:#x?}");
                    self.zap(pages)?;
                    rest = all.clone();
                }
                error => {
                    self.zap(pages)?;
                    return match Self::host_failed(gfn, error) {
                        Err(error) => Err(error),
                        Ok(_) => Err(FaultError::Contended { gfn }),
                    };
                }
            }
            if rest.is_empty() {
                return Ok(());
            }
        }
        self.zap(pages)?;
        Err(FaultError::Contended { gfn })
    }
}

/// Why a folio was not entered: never, unless there is a bug.
#[derive(Debug, thiserror::Error)]
enum EnterError {
    #[error(transparent)]
    Claim(#[from] crate::folio::ClaimError),
    #[error(transparent)]
    Set(#[from] SetError),
}

pub(super) fn no_frame(gfn: Gfn, source: TakeError) -> FaultError {
    FaultError::NoFrame { gfn, source }
}
