//! Pages whose first content a [`Filler`] supplies.
//!
//! The filler runs with no lock held, and writes a buffer of its handler's. Not even the address space is held: one that
//! never returns keeps its own thread, and no guest's memory. What it wrote is copied to the frame and mapped in one
//! commit, unless the fill was given up meanwhile ([`Fills`](super::fills::Fills)). A huge page is filled piece by piece.

use std::{
    io,
    ops::{Deref, Range},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    time::Instant,
};

use mmu_notifier::{
    PAGE_SIZE,
    sync::{Mutex, lock},
};

use super::{
    FaultError, FaultReason, Filler, Mm,
    fault::{Resolved, with_causes},
    fills::Ticket,
    map::Mapped,
    taken::Taken,
};
use crate::{
    Gfn, PageSize, host,
    pgtable::{PtGuard, SlotState},
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

/// A fill that is under way.
pub(super) struct Fill {
    ticket: Ticket,
    /// The page that faulted.
    gfn: Gfn,
    /// What is filled: its window, or its whole huge page.
    pages: Range<Gfn>,
    size: PageSize,
    filler: Arc<dyn Filler>,
    /// Where the filler's bytes for them begin.
    offset: u64,
}

/// How much is filled at a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Huge,
    Window,
    Page,
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

impl Extent {
    /// What there may be frames for in `mm` where there are none for this.
    pub(super) fn less(self, mm: &Mm) -> Option<Self> {
        match self {
            Self::Huge => mm.has_base_frames().then_some(Self::Window),
            Self::Window => Some(Self::Page),
            Self::Page => None,
        }
    }
}

impl Fill {
    /// Begins to fill the page of `gfn`, with its window or its whole huge page, if that may be and is not more than `most`.
    /// What came of the fault if it is not for this thread to fill it.
    pub(super) fn begin(
        mm: &Mm,
        gfn: Gfn,
        vma: &VmaSpec,
        most: Extent,
    ) -> Result<Self, Result<Resolved, FaultError>> {
        let Some(filler) = mm.object.filler().cloned() else {
            return Err(Err(FaultError::Contended { gfn }));
        };
        let block = Mm::pages_of(gfn, PageSize::Huge);
        let fits_huge = || Mm::may_be_huge(vma, gfn) && mm.is_empty_now(&block, PageSize::Huge);
        let (pages, size) = match most {
            Extent::Huge if fits_huge() => (block, PageSize::Huge),
            Extent::Huge | Extent::Window => (mm.empty_run(mm.window(vma, gfn).0, gfn), PageSize::Base),
            Extent::Page => (gfn..gfn.plus(1), PageSize::Base),
        };
        let Some(ticket) = mm.object.fills.begin(mm.id, mm.frames(&pages)) else {
            // Whoever fills it wakes in the end.
            mm.counts.add(FaultReason::Busy, 1);
            return Err(Ok(Resolved::Left));
        };
        if !planted::is(Bug::FillUnlooked) && !mm.is_empty_now(&pages, size) {
            // Filled since the fault looked. From here on nobody else maps anything there.
            mm.object.fill_is_over(mm.object.fills.end(ticket));
            mm.counts.add(FaultReason::Concurrent, 1);
            return Err(mm.wake_after_fill(gfn));
        }
        let offset = mm.offsets(&pages).start;
        Ok(Self { ticket, gfn, pages, size, filler, offset })
    }

    /// How much is filled.
    pub(super) fn extent(&self) -> Extent {
        match self.size {
            PageSize::Huge => Extent::Huge,
            PageSize::Base if self.pages.end == self.gfn.plus(1) && self.pages.start == self.gfn => {
                Extent::Page
            }
            PageSize::Base => Extent::Window,
        }
    }

    /// Has it filled and mapped, and whoever waits woken. None if the address space, which `mm` finds, has ended.
    pub(super) fn run<M: Deref<Target = Mm>>(
        self,
        mm: &impl Fn() -> Option<M>,
        scratch: &mut Scratch,
    ) -> Option<Result<Resolved, FaultError>> {
        let filled = catch_unwind(AssertUnwindSafe(|| self.fill_all(mm, scratch)));
        scratch.watch.set(None);
        let ended = mm().map(|mm| mm.end_fill(&self, filled.as_ref().ok()));
        match filled {
            Err(panic) => resume_unwind(panic),
            // That it failed is why it ended.
            Ok(Err(Unfilled::Failed(error))) => ended.map(|_| Err(error)),
            Ok(_) => ended,
        }
    }

    fn fill_all<M: Deref<Target = Mm>>(
        &self,
        mm: &impl Fn() -> Option<M>,
        scratch: &mut Scratch,
    ) -> Result<(), Unfilled> {
        let bytes = (self.pages.end.get() - self.pages.start.get()) * PAGE_SIZE;
        scratch.piece.resize(PIECE, 0);
        let mut start = 0;
        while start < bytes {
            let len = usize::try_from(bytes - start).map_or(PIECE, |rest| rest.min(PIECE));
            let piece = &mut scratch.piece[..len];
            scratch.watch.set(Some(RunningFill { ticket: self.ticket, since: Instant::now() }));
            let returned = self.filler.fill(self.offset + start, piece);
            scratch.watch.set(None);
            let gfn = self.pages.start.plus(start / PAGE_SIZE);
            returned.map_err(|source| FaultError::Fill {
                gfn,
                filler: self.filler.name().to_owned(),
                source,
            })?;
            mm().ok_or(Unfilled::Late)?.take_piece(self, start, piece)?;
            start += len as u64;
        }
        Ok(())
    }
}

impl Mm {
    /// Copies what the filler of `fill` wrote to the frames, from byte `start` on, and maps them after the last piece.
    fn take_piece(&self, fill: &Fill, start: u64, piece: &[u8]) -> Result<(), Unfilled> {
        let Fill { pages, size, .. } = fill;
        let gfn = pages.start;
        let held = self.object.fills.hold(fill.ticket).map_err(|_| Unfilled::Late)?;
        if start == 0 {
            let frames = self.frames(pages);
            match size {
                PageSize::Base => self.pool().take_for_fill(frames),
                PageSize::Huge => self.pool().take_huge_for_fill(frames),
            }
            .map_err(|source| FaultError::NoFrame { gfn, source })?;
            held.set_taken(true);
        }
        let written = self.pool().write(self.frame(gfn), start, piece);
        written.map_err(|error| FaultError::Host { gfn, source: io::Error::other(error) })?;
        if start + piece.len() as u64 == (pages.end.get() - pages.start.get()) * PAGE_SIZE {
            held.set_taken(false);
            let mapped = self.map_filled(Taken::of(self, pages.clone()), *size)?;
            self.counts.add(FaultReason::Filled, mapped.count());
            mapped.has(fill.gfn)?;
        }
        Ok(())
    }

    /// Gives `fill` back, which came to what is `filled`, or to a panic.
    fn end_fill(&self, fill: &Fill, filled: Option<&Result<(), Unfilled>>) -> Result<Resolved, FaultError> {
        // Over before the wake: whoever faults again begins a fill of its own.
        self.object.fill_is_over(self.object.fills.end(fill.ticket));
        let woken = self.wake_after_fill(fill.gfn);
        match filled {
            Some(Ok(())) => woken,
            Some(Err(Unfilled::Late)) => {
                self.counts.add(FaultReason::FillLate, 1);
                Ok(Resolved::Left)
            }
            Some(Err(Unfilled::Failed(_))) | None => {
                self.counts.add(FaultReason::FillFailed, 1);
                woken
            }
        }
    }

    /// Whether nothing is mapped at `pages`, nor filled for others, without a lock.
    fn is_empty_now(&self, pages: &Range<Gfn>, size: PageSize) -> bool {
        match size {
            PageSize::Huge => {
                self.table.is_empty_around(pages.start) && !self.object.has_any(&self.frames(pages))
            }
            PageSize::Base => (pages.start.get()..pages.end.get()).all(|gfn| self.is_page_empty_now(gfn)),
        }
    }

    fn is_page_empty_now(&self, gfn: u64) -> bool {
        let gfn = Gfn::new(gfn);
        self.table.walk(gfn).is_none() && !self.object.is_cached(self.frame(gfn))
    }

    /// The pages of `window` around `gfn` that are not mapped, nor filled for others.
    fn empty_run(&self, window: Range<Gfn>, gfn: Gfn) -> Range<Gfn> {
        let empty = |&page: &u64| self.is_page_empty_now(page);
        let after = (gfn.get() + 1..window.end.get()).take_while(empty).count() as u64;
        let before = (window.start.get()..gfn.get()).rev().take_while(empty).count() as u64;
        Gfn::new(gfn.get() - before)..gfn.plus(1 + after)
    }

    /// Maps the pages of `taken`, whose frames are filled, if nothing has been mapped there since.
    fn map_filled(&self, taken: Taken<'_>, size: PageSize) -> Result<Mapped, FaultError> {
        let gfn = taken.pages().start;
        match self.vmas.snapshot().lock(gfn.address()) {
            LookedUp::Locked(vma) => return self.map_filled_in(&vma, taken, size),
            LookedUp::Contended | LookedUp::Detached | LookedUp::None => {}
        }
        let mmap = self.vmas.mmap_lock().read();
        let vmas = self.vmas.under(&mmap);
        let vma = vmas.lock(gfn.address()).ok_or(FaultError::NoVma { gfn })?;
        self.map_filled_in(&vma, taken, size)
    }

    fn map_filled_in(
        &self,
        vma: &LockedVma<'_>,
        mut taken: Taken<'_>,
        size: PageSize,
    ) -> Result<Mapped, FaultError> {
        let gfn = taken.pages().start;
        // Asked for now as it was when the fill began.
        let covered = super::bytes_of(taken.pages()).is_some_and(|bytes| vma.range.covers(bytes))
            && (size == PageSize::Base || Self::may_be_huge(vma, gfn));
        let mut pt = self.lock_entries(gfn)?;
        let closed = self.object.is_closed(&self.frames(taken.pages()));
        if !covered || closed || !Self::is_empty(&mut pt, taken.pages(), size) {
            return Err(FaultError::Contended { gfn });
        }
        taken.publish(size);
        Ok(self.map_taken(&mut pt, vma, taken, size))
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
        let ended = self.object.fills.give_up(ticket);
        let Some(gfn) = ended.as_ref().map(|ended| self.page(ended.frames.start)) else { return false };
        self.object.fill_is_over(ended);
        if let Err(error) = self.wake_after_fill(gfn) {
            log::error!("{}: nobody was woken", with_causes(&error));
        }
        true
    }

    /// Gives all fills up that its handlers have begun, for the end: others may wait for them.
    pub(super) fn give_up_all_fills(&self) {
        while let Some(ended) = self.object.fills.give_up_of(self.id) {
            let gfn = self.page(ended.frames.start);
            self.object.fill_is_over(Some(ended));
            if let Err(error) = self.wake_after_fill(gfn) {
                log::error!("{}: nobody was woken", with_causes(&error));
            }
        }
    }

    /// Wakes whoever waits for a fill at `gfn`, which is over: in all of its 2 MiB, since a fault on another page was left
    /// to it if it wanted one of these pages too; and in every address space that shows it.
    fn wake_after_fill(&self, gfn: Gfn) -> Result<Resolved, FaultError> {
        let block = Self::pages_of(gfn, PageSize::Huge);
        if self.object.is_shared() {
            let at = host::time_stamp();
            self.object.wake(&self.frames(&block)).map_err(|source| FaultError::Host { gfn, source })?;
            return Ok(Resolved::Done { at });
        }
        let block = self.offsets(&block);
        self.wake(gfn, block.start..block.end.min(self.range.len()))
    }
}
