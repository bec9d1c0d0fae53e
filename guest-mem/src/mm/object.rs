//! What guest pages are made of: the frames of one stretch, and where their first content comes from.
//!
//! A memory object is one address space's own, or shared by several, each with a window, a page table and VMAs of its
//! own. What the two kinds differ in is how long a frame holds its content:
//!
//! | | its own | shared |
//! |---|---|---|
//! | a frame is taken | for one page-table entry | by whoever touches it first, for all |
//! | references to a folio | the entry's, pins | the object's own, each entry's, pins |
//! | an entry goes | and its frame with it | and the content stays |
//! | a frame is given back | with its entry | when it is [removed](super::remove) from all, or the object ends |
//!
//! So a shared object is to its address spaces what the page cache of a file is to Linux's. A fault takes its reference
//! as any other who found a frame without the lock that guards it ([`folio`](crate::folio)):
//!
//! ```text
//! fault, under its page-table lock            removal, of whichever address space
//! range closed? then leave it                 close the range
//! 1. find the folio at the frame              zap the entries of all, each under its page-table lock
//! 2. try_get: count + 1, not from 0           A. freeze: count == 1, the object's own, then zero
//!    nobody has it: take the frame, zero it   B. free the folio, give the frame back
//! map it                                      open the range, wake
//! ```
//! 2 before A: A finds that it is not alone. A before 2: nobody gets a reference, and the frame is not to be had until
//! it is back. Step 3 of that protocol, to look again, is the page-table lock's here: whoever finds the range open under
//! it has mapped the page before the removal gets the lock, and loses it again. Of two who miss one frame the pool lets
//! one take it, and the other looks again.

use std::{fmt, io, ops::Range, sync::Arc};

use mmu_notifier::{
    AddressRange, PAGE_SIZE,
    sync::{Mutex, lock, thread},
};

use super::{
    Filler,
    discard::DiscardedParts,
    fills::{Ended, Fills},
    remove::Removals,
};
use crate::{
    BLOCK_PAGES, PageSize, Pfn,
    folio::{ExclusiveFolio, FolioBorrow, FolioRef, FrameTable},
    frame::PAGE_BYTES,
    planted::{self, Bug},
    pool::{FramePool, Stretch, TakeError},
    rmap::Mapping,
};

/// The frames of guest pages, their first content, and who maps them.
pub(crate) struct MemoryObject {
    /// Who shows it: the windows of address spaces.
    mapping: Arc<Mapping>,
    filler: Option<Arc<dyn Filler>>,
    pub(super) fills: Fills,
    /// A leaf.
    pub(super) discarded_parts: Mutex<DiscardedParts>,
    /// For a shared one: what is being removed from all.
    removals: Option<Removals>,
    folios: Arc<FrameTable>,
    /// Dropped last: nothing holds its frames any more.
    stretch: Stretch,
}

impl MemoryObject {
    /// One address space's own, of which `handlers` threads resolve faults.
    pub(crate) fn own(stretch: Stretch, filler: Option<Arc<dyn Filler>>, handlers: usize) -> Arc<Self> {
        Arc::new(Self::new(stretch, filler, handlers, None))
    }

    /// One that several address spaces may map.
    pub(crate) fn shared(stretch: Stretch, filler: Option<Arc<dyn Filler>>, handlers: usize) -> Arc<Self> {
        Arc::new(Self::new(stretch, filler, handlers, Some(Removals::default())))
    }

    fn new(
        stretch: Stretch,
        filler: Option<Arc<dyn Filler>>,
        handlers: usize,
        removals: Option<Removals>,
    ) -> Self {
        Self {
            mapping: Arc::default(),
            filler,
            fills: Fills::new(handlers),
            discarded_parts: Mutex::default(),
            removals,
            folios: Arc::clone(stretch.pool().folios()),
            stretch,
        }
    }

    pub(crate) const fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    pub(crate) const fn stretch(&self) -> &Stretch {
        &self.stretch
    }

    pub(super) fn pool(&self) -> &Arc<FramePool> {
        self.stretch.pool()
    }

    pub(super) const fn folios(&self) -> &Arc<FrameTable> {
        &self.folios
    }

    pub(super) const fn filler(&self) -> Option<&Arc<dyn Filler>> {
        self.filler.as_ref()
    }

    pub(super) const fn is_shared(&self) -> bool {
        self.removals.is_some()
    }

    pub(super) const fn removals(&self) -> Option<&Removals> {
        self.removals.as_ref()
    }

    /// References to each of its folios that belong to no entry and to no pin.
    pub(super) fn own_references(&self) -> u32 {
        u32::from(self.is_shared())
    }

    /// The frames of `range`, in bytes from its start.
    pub(super) fn frames(&self, range: AddressRange) -> Range<Pfn> {
        let start = self.stretch.start();
        start.plus(range.start() / PAGE_SIZE)..start.plus(range.end() / PAGE_SIZE)
    }

    /// Where `frames` are in it, in bytes.
    pub(super) fn range_of(&self, frames: &Range<Pfn>) -> Option<AddressRange> {
        let start = frames.start.index().checked_sub(self.stretch.start().index())?;
        let pages = frames.end.index().checked_sub(frames.start.index())?;
        AddressRange::new(start * PAGE_SIZE, pages * PAGE_SIZE).ok()
    }

    /// Makes `frames`, all in one block and none of them mapped where the caller has the page-table lock, the caller's to
    /// map by entries of `size`: each entry's reference to a shared folio, else the frames themselves. All, or none.
    ///
    /// # Errors
    /// [`TakeError`]. `Taken` of a shared one: it is in use in another size, or another fault is about to map it; look
    /// again.
    pub(super) fn acquire(&self, frames: Range<Pfn>, size: PageSize) -> Result<(), TakeError> {
        if !self.is_shared() {
            return self.take_zeroed(frames, size);
        }
        let mut next = frames.start;
        while next < frames.end {
            if let Err(error) = self.acquire_one(next, size) {
                self.release(&(frames.start..next), size);
                // Whoever is about to map it gets on with that.
                thread::yield_now();
                return Err(error);
            }
            next = next.plus(size.pages());
        }
        Ok(())
    }

    fn take_zeroed(&self, frames: Range<Pfn>, size: PageSize) -> Result<(), TakeError> {
        match size {
            PageSize::Base => self.pool().take_zeroed(frames),
            PageSize::Huge => self.pool().take_huge_zeroed(frames),
        }
        .map(drop)
    }

    fn acquire_one(&self, frame: Pfn, size: PageSize) -> Result<(), TakeError> {
        let taken = TakeError::Taken(frame);
        match self.folios.find(frame.index()) {
            Some(found) if found.size() < size => Err(taken),
            Some(_) if planted::is(Bug::MapUncounted) => Ok(()),
            Some(found) => {
                let reference = self.folios.try_get(frame.index(), found.size());
                reference.map(FolioRef::leak).map(drop).ok_or(taken)
            }
            None if self.filler.is_some() => Err(taken),
            None => {
                let frames = frame..frame.plus(size.pages());
                self.take_zeroed(frames.clone(), size)?;
                self.insert(&frames, size);
                Ok(())
            }
        }
    }

    /// Gives the references to shared folios back that [`acquire`](Self::acquire) made the caller's.
    pub(super) fn release(&self, frames: &Range<Pfn>, size: PageSize) {
        self.for_each(frames, size, |folio| drop(folio.put_many(1)));
    }

    /// As [`release`](Self::release), for what was to be mapped by base entries and may have been written.
    pub(super) fn release_written(&self, frames: &Range<Pfn>) {
        self.for_each(frames, PageSize::Base, |folio| {
            folio.set_dirty();
            drop(folio.put_many(1));
        });
    }

    /// Makes the references that were acquired for `frames`, a shared huge folio, those of entries of `size`, and not of
    /// the other.
    pub(super) fn change_size(&self, frames: &Range<Pfn>, size: PageSize) {
        #[expect(clippy::cast_possible_truncation, reason = "at most 511")]
        let more = (frames.end.index() - frames.start.index()).saturating_sub(1) as u32;
        self.for_each(frames, PageSize::Huge, |folio| match size {
            PageSize::Base => folio.get_many(more),
            PageSize::Huge => drop(folio.put_many(more)),
        });
    }

    /// Calls `visit` with the shared folio of each entry of `size` that maps `frames`. The caller has references, and the
    /// object one, which is the last.
    fn for_each(&self, frames: &Range<Pfn>, size: PageSize, mut visit: impl FnMut(FolioBorrow<'_>)) {
        let mut next = frames.start;
        while next < frames.end {
            if let Some(folio) = self.folios.find(next.index()) {
                visit(folio);
            }
            next = next.plus(size.pages());
        }
    }

    /// Gives the frames of a fill back that came to nothing.
    pub(super) fn fill_is_over(&self, ended: Option<Ended>) {
        if let Some(ended) = ended.filter(|ended| ended.taken) {
            self.give_back(&ended.frames);
        }
    }

    /// Makes folios of `size` of `frames`, which are taken and hold what guests shall see: each with the shared object's
    /// reference and one for the entry that the caller makes.
    pub(super) fn insert(&self, frames: &Range<Pfn>, size: PageSize) {
        let mut next = frames.start;
        while next < frames.end {
            match self.folios.claim(next.index(), size) {
                Ok(folio) => {
                    folio.set_uptodate();
                    folio.unfreeze(1 + self.own_references()).leak();
                }
                // A bug of ours; whoever maps the frame finds no folio.
                Err(error) => log::error!("frame {next:?} stays out of use: {error}"),
            }
            next = next.plus(size.pages());
        }
    }

    /// Whether a shared frame has its content, a moment ago. It keeps it for as long as the caller has the page-table lock
    /// of a page that shows it, if its range was found open under that.
    pub(super) fn is_cached(&self, frame: Pfn) -> bool {
        self.is_shared() && self.folios.find(frame.index()).is_some()
    }

    /// Whether any of the shared `frames` has its content, a moment ago.
    pub(super) fn has_any(&self, frames: &Range<Pfn>) -> bool {
        self.is_shared() && self.folios.in_use(frames.start.index()..frames.end.index()).next().is_some()
    }

    /// Whether the block of `frame` can be mapped huge, as far as the frames go: one that is shared may be in use already
    /// by base pages.
    pub(super) fn fits_huge(&self, frame: Pfn) -> bool {
        let block = frame.block().index();
        !self.is_shared()
            || self.folios.in_use(block..block + BLOCK_PAGES).all(|folio| folio.size() == PageSize::Huge)
    }

    /// Whether the huge page of `frames` could be mapped without any work.
    pub(super) fn is_ready_huge(&self, frames: &Range<Pfn>) -> bool {
        let cached =
            || self.folios.find(frames.start.index()).is_some_and(|folio| folio.size() == PageSize::Huge);
        self.is_shared() && cached() || self.filler.is_none() && self.pool().is_stocked(frames)
    }

    /// Whether `frames`, which are taken, hold zeros.
    pub(super) fn is_zero(&self, frames: &Range<Pfn>) -> io::Result<bool> {
        const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
        let mut page = ZEROS;
        for index in 0..frames.end.index() - frames.start.index() {
            self.pool().read(frames.start.plus(index), 0, &mut page).map_err(io::Error::other)?;
            if page != ZEROS {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives `frames` back, which nobody maps any more.
    pub(super) fn give_back(&self, frames: &Range<Pfn>) {
        if let Err(error) = self.pool().give_back(frames.clone()) {
            log::error!("frames {frames:?} stay out of use: {error}");
        }
    }

    /// The frames of `folio`.
    pub(super) fn frames_of(&self, index: u64, size: PageSize) -> Range<Pfn> {
        let first = Pfn::new(self.pool().number(), index);
        first..first.plus(size.pages())
    }

    /// Ends the use of `folio`, and gives its frames back.
    pub(super) fn free(&self, folio: ExclusiveFolio<'_>) {
        let frames = self.frames_of(folio.index(), folio.size());
        if folio.size() == PageSize::Huge {
            lock(&self.discarded_parts).forget(frames.start);
        }
        folio.free();
        self.give_back(&frames);
    }
}

impl Drop for MemoryObject {
    /// What is shared has no user left; gives back what no device has pinned.
    fn drop(&mut self) {
        if !self.is_shared() {
            return;
        }
        let mut kept = 0;
        let frames = self.stretch.range();
        for folio in self.folios.in_use(frames.start.index()..frames.end.index()) {
            match folio.adopt().freeze(1) {
                Ok(folio) => self.free(folio),
                Err(held) => kept += held.leak().size().bytes(),
            }
        }
        if kept > 0 {
            log::error!(
                "{kept:#x} bytes of shared memory are held when it goes; their frames stay out of use"
            );
        }
    }
}

impl fmt::Debug for MemoryObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryObject")
            .field("frames", &self.stretch.range())
            .field("shared", &self.is_shared())
            .finish_non_exhaustive()
    }
}
