//! Pages whose first content a [`Filler`](super::Filler) supplies.
//!
//! The filler runs with no lock held, and writes a buffer of its handler's. What it wrote is copied to the frame and
//! mapped in one commit, unless the fill was given up meanwhile ([`Fills`](super::fills::Fills)). A huge page is filled
//! piece by piece.

use std::{
    io,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use mmu_notifier::{
    PAGE_SIZE,
    sync::{Mutex, lock},
};

use super::{
    FaultError, FaultReason, Mm,
    fault::Resolved,
    fills::{Ended, Ticket},
    map::no_frame,
};
use crate::{
    Gfn, PageSize,
    pgtable::{EntryFlags, PtGuard, SlotState},
    planted::{self, Bug},
    vma::{LockedVma, LookedUp, VmaSpec},
};

/// Bytes that a filler is asked for at a time, at most.
const PIECE: usize = 64 << 10;

/// What a handler brings to its faults, made once.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// The filler's to write; empty before the first fill.
    piece: Vec<u8>,
    watch: Arc<FillWatch>,
}

/// What the supervisor sees of a handler's fill.
#[derive(Debug, Default)]
pub(crate) struct FillWatch {
    /// A leaf.
    running: Mutex<Option<RunningFill>>,
}

/// A filler that has not returned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunningFill {
    pub(crate) ticket: Ticket,
    pub(crate) since: Instant,
}

impl Scratch {
    /// For a handler whose fills are watched.
    pub(crate) fn watched(watch: Arc<FillWatch>) -> Self {
        Self { piece: Vec::new(), watch }
    }
}

impl FillWatch {
    /// The fill whose filler is running now, if one is.
    pub(crate) fn running(&self) -> Option<RunningFill> {
        *lock(&self.running)
    }

    fn set(&self, fill: Option<RunningFill>) {
        *lock(&self.running) = fill;
    }
}

/// Why a fill came to nothing.
enum Unfilled {
    /// It was given up while its filler ran.
    Late,
    /// The filler failed, or there is no frame.
    Failed(FaultError),
}

impl From<FaultError> for Unfilled {
    fn from(error: FaultError) -> Self {
        Self::Failed(error)
    }
}

impl Mm {
    /// Fills and maps the page of `gfn`, with its window or its whole huge page.
    pub(super) fn fill(
        &self,
        gfn: Gfn,
        vma: &VmaSpec,
        scratch: &mut Scratch,
    ) -> Result<Resolved, FaultError> {
        let (pages, size) = if Self::may_be_huge(vma, gfn) && self.table.is_empty_around(gfn) {
            (Self::pages_of(gfn, PageSize::Huge), PageSize::Huge)
        } else {
            (self.empty_run(self.window(vma, gfn).0, gfn), PageSize::Base)
        };
        let Some(ticket) = self.fills.begin(pages.clone()) else {
            // Whoever fills it wakes in the end.
            self.counts.add(FaultReason::Busy, 1);
            return Ok(Resolved::Left);
        };
        if !planted::is(Bug::FillUnlooked) && !self.is_empty_now(&pages, size) {
            // Filled since the fault looked. From here on nobody else maps anything there.
            self.fill_is_over(self.fills.end(ticket));
            self.wake_after_fill(gfn).map_err(|source| FaultError::Host { gfn, source })?;
            self.counts.add(FaultReason::Concurrent, 1);
            return Ok(Resolved::Done);
        }
        let filled = catch_unwind(AssertUnwindSafe(|| self.fill_pages(ticket, &pages, size, scratch)));
        scratch.watch.set(None);
        // Over before the wake: whoever faults again begins a fill of its own.
        self.fill_is_over(self.fills.end(ticket));
        let woken = self.wake_after_fill(gfn);
        match filled {
            Ok(Ok(())) => {}
            Ok(Err(Unfilled::Late)) => {
                self.counts.add(FaultReason::FillLate, 1);
                return Ok(Resolved::Left);
            }
            Ok(Err(Unfilled::Failed(error))) => {
                self.counts.add(FaultReason::FillFailed, 1);
                return Err(error);
            }
            Err(panic) => {
                self.counts.add(FaultReason::FillFailed, 1);
                std::panic::resume_unwind(panic);
            }
        }
        woken.map_err(|source| FaultError::Host { gfn, source })?;
        self.counts.add(FaultReason::Filled, pages.end.get() - pages.start.get());
        Ok(Resolved::Done)
    }

    /// Whether nothing is mapped at `pages`, without a lock.
    fn is_empty_now(&self, pages: &Range<Gfn>, size: PageSize) -> bool {
        match size {
            PageSize::Huge => self.table.is_empty_around(pages.start),
            PageSize::Base => {
                (pages.start.get()..pages.end.get()).all(|gfn| self.table.walk(Gfn::new(gfn)).is_none())
            }
        }
    }

    /// The pages of `window` around `gfn` that are not mapped.
    fn empty_run(&self, window: Range<Gfn>, gfn: Gfn) -> Range<Gfn> {
        let empty = |&page: &u64| self.table.walk(Gfn::new(page)).is_none();
        let after = (gfn.get() + 1..window.end.get()).take_while(empty).count() as u64;
        let before = (window.start.get()..gfn.get()).rev().take_while(empty).count() as u64;
        Gfn::new(gfn.get() - before)..gfn.plus(1 + after)
    }

    fn fill_pages(
        &self,
        ticket: Ticket,
        pages: &Range<Gfn>,
        size: PageSize,
        scratch: &mut Scratch,
    ) -> Result<(), Unfilled> {
        let Some(filler) = &self.filler else { return Ok(()) };
        let bytes = (pages.end.get() - pages.start.get()) * PAGE_SIZE;
        let offset = self.offsets(pages).start;
        scratch.piece.resize(PIECE, 0);
        let mut start = 0;
        while start < bytes {
            let gfn = pages.start.plus(start / PAGE_SIZE);
            let len = usize::try_from(bytes - start).map_or(PIECE, |rest| rest.min(PIECE));
            let piece = &mut scratch.piece[..len];
            scratch.watch.set(Some(RunningFill { ticket, since: Instant::now() }));
            let returned = filler.fill(offset + start, piece);
            scratch.watch.set(None);
            returned.map_err(|source| FaultError::Fill { gfn, filler: filler.name().to_owned(), source })?;
            let held = self.fills.hold(ticket).map_err(|_| Unfilled::Late)?;
            if start == 0 {
                let frames = self.frames(pages);
                self.pool().take_for_fill(frames.clone()).map_err(|source| no_frame(gfn, source))?;
                held.set_frames(Some(frames));
            }
            let written = self.pool().write(self.frame(pages.start), start, piece);
            written.map_err(|error| FaultError::Host { gfn, source: io::Error::other(error) })?;
            start += len as u64;
            if start == bytes {
                let mapped = self.map_filled(pages, size);
                if matches!(mapped, Ok(()) | Err(FaultError::Stuck { .. })) {
                    held.set_frames(None);
                }
                mapped?;
            }
        }
        Ok(())
    }

    /// Maps `pages`, whose frames are filled, if nothing has been mapped there since.
    fn map_filled(&self, pages: &Range<Gfn>, size: PageSize) -> Result<(), FaultError> {
        let gfn = pages.start;
        match self.vmas.snapshot().lock(gfn.address()) {
            LookedUp::Locked(vma) => return self.map_filled_in(&vma, pages, size),
            LookedUp::Contended | LookedUp::Detached | LookedUp::None => {}
        }
        let mmap = self.vmas.mmap_lock().read();
        let vmas = self.vmas.under(&mmap);
        let vma = vmas.lock(gfn.address()).ok_or(FaultError::NoVma { gfn })?;
        self.map_filled_in(&vma, pages, size)
    }

    fn map_filled_in(
        &self,
        vma: &LockedVma<'_>,
        pages: &Range<Gfn>,
        size: PageSize,
    ) -> Result<(), FaultError> {
        let gfn = pages.start;
        // Asked for now as it was when the fill began.
        let covered = super::bytes_of(pages).is_some_and(|bytes| vma.range.covers(bytes))
            && (size == PageSize::Base || Self::may_be_huge(vma, gfn));
        let mut pt = self.lock_entries(gfn)?;
        if !covered || !Self::is_empty(&mut pt, pages, size) {
            return Err(FaultError::Contended { gfn });
        }
        self.map_taken(&mut pt, vma, pages.clone(), size)?;
        let mut gfn = pages.start;
        while gfn < pages.end {
            if !pt.entry(gfn).is_writable() {
                pt.update(gfn, EntryFlags::CLEAN, EntryFlags::EMPTY);
            }
            gfn = gfn.plus(size.pages());
        }
        Ok(())
    }

    fn is_empty(pt: &mut PtGuard<'_>, pages: &Range<Gfn>, size: PageSize) -> bool {
        match size {
            PageSize::Huge => pt.state() == SlotState::None,
            PageSize::Base => {
                let mut pages = (pages.start.get()..pages.end.get()).map(Gfn::new);
                pt.expose_table().is_ok() && pages.all(|gfn| pt.entry(gfn).is_none())
            }
        }
    }

    /// Gives a fill up whose filler has not returned, and has its pages filled anew: whoever waits for them faults again.
    /// Whether it did; not while a piece of it is being copied, nor when it is over.
    pub(crate) fn give_up_fill(&self, ticket: Ticket) -> bool {
        let ended = self.fills.give_up(ticket);
        let Some(pages) = ended.as_ref().map(|ended| ended.pages.clone()) else { return false };
        self.fill_is_over(ended);
        if let Err(error) = self.wake_after_fill(pages.start) {
            log::error!("nobody was woken at guest page {:#x}: {error}", pages.start.get());
        }
        true
    }

    /// Wakes whoever waits in the 2 MiB of `gfn`, where a fill is over: not only for its pages, since a fault on another
    /// page was left to it if it wanted one of these pages too.
    fn wake_after_fill(&self, gfn: Gfn) -> io::Result<()> {
        let block = self.offsets(&Self::pages_of(gfn, PageSize::Huge));
        self.install.wake(block.start..block.end.min(self.range.len()))
    }

    /// Gives the frames of a fill back that came to nothing.
    fn fill_is_over(&self, ended: Option<Ended>) {
        let Some(frames) = ended.and_then(|ended| ended.frames) else { return };
        if let Err(error) = self.pool().give_back(frames.clone()) {
            log::error!("frames {frames:?} stay out of use: {error}");
        }
    }
}
