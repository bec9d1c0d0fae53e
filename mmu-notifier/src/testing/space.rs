//! An address space of a few pages that knows when a page is used after it was freed.

use crate::{
    AddressRange, Event, Invalidation, InvalidationGuard, PAGE_SIZE, Refused, Subscriptions, Witness,
    sync::{
        Mutex, MutexGuard,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Release},
        },
        lock,
    },
};

/// What a frame holds when it is free.
const POISON: u64 = 0;
/// A page-table entry that maps nothing.
const NONE: u64 = 0;

/// A page table over frames that are poisoned when they are freed.
///
/// Faults take no lock, as a page-table walk must not: so whatever races with an invalidation can. A frame holds the
/// number of the translation that it was last filled for, and that number is never used again.
#[derive(Debug)]
pub struct TestSpace {
    /// The translation of each page: its number shifted left by [`FRAME_BITS`], and its frame; or [`NONE`].
    entries: Vec<AtomicU64>,
    frames: Vec<AtomicU64>,
    free: Mutex<Vec<u64>>,
    last: AtomicU64,
}

const FRAME_BITS: u32 = 20;

/// Where an address leads: for use as long as no invalidation took it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation(u64);

impl Translation {
    fn frame(self) -> usize {
        usize::try_from(self.0 & ((1 << FRAME_BITS) - 1)).unwrap_or(usize::MAX)
    }

    fn number(self) -> u64 {
        self.0 >> FRAME_BITS
    }
}

/// A translation was used although its page had been freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address:#x} was used through a stale translation: its frame {frame} {now}")]
pub struct StaleUse {
    /// The address that was accessed, in bytes.
    pub address: u64,
    /// The frame that it had led to.
    pub frame: usize,
    /// What the frame is now.
    pub now: FrameState,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameState {
    /// It is free, and poisoned.
    Poisoned,
    /// It belongs to another translation.
    Reused,
}

impl std::fmt::Display for FrameState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Poisoned => "is free and poisoned",
            Self::Reused => "belongs to another page by now",
        })
    }
}

impl TestSpace {
    /// A space of `pages` pages from address zero, none of them mapped yet; at most 2^19.
    ///
    /// # Panics
    /// If there are more pages, or none.
    #[must_use]
    pub fn new(pages: usize) -> Self {
        assert!((1..=1 << (FRAME_BITS - 1)).contains(&pages), "a test space has 1 to 2^19 pages");
        // As many again, so that a frame is not always reused at once.
        let frames = 2 * pages as u64;
        Self {
            entries: (0..pages).map(|_| AtomicU64::new(NONE)).collect(),
            frames: (0..frames).map(|_| AtomicU64::new(POISON)).collect(),
            free: Mutex::new((0..frames).collect()),
            last: AtomicU64::new(0),
        }
    }

    /// All of its addresses.
    #[must_use]
    pub fn range(&self) -> AddressRange {
        let everything = AddressRange::new(0, self.entries.len() as u64 * PAGE_SIZE);
        everything.unwrap_or(AddressRange::ALL)
    }

    /// Where `address` (in bytes) leads; fills a frame if nothing is mapped there. `None` outside of the space, and
    /// when frames ran out for a moment: start over.
    #[must_use]
    pub fn translate(&self, address: u64) -> Option<Translation> {
        let entry = self.entries.get(usize::try_from(address / PAGE_SIZE).ok()?)?;
        // Acquire: the frame is filled, pairs with the exchange below.
        let mapped = entry.load(Acquire);
        if mapped != NONE {
            return Some(Translation(mapped));
        }
        let frame = self.free().pop()?;
        let number = self.last.fetch_add(1, AcqRel) + 1;
        let fresh = Translation(number << FRAME_BITS | frame);
        self.frames.get(fresh.frame())?.store(number, Release);
        match entry.compare_exchange(NONE, fresh.0, AcqRel, Acquire) {
            Ok(_) => Some(fresh),
            Err(theirs) => {
                self.free_frame(fresh);
                Some(Translation(theirs))
            }
        }
    }

    /// Uses the page at `address` through `translation`.
    ///
    /// # Errors
    /// [`StaleUse`] if its frame was freed since.
    pub fn access(&self, address: u64, translation: Translation) -> Result<(), StaleUse> {
        let frame = translation.frame();
        let now = self.frames.get(frame).map_or(POISON, |frame| frame.load(Acquire));
        if now == translation.number() {
            return Ok(());
        }
        let now = if now == POISON { FrameState::Poisoned } else { FrameState::Reused };
        Err(StaleUse { address, frame, now })
    }

    /// Unmaps `range`, in the order that the protocol asks for: start, clear the entries, end, and only then free
    /// the frames.
    pub fn unmap(&self, subscriptions: &Subscriptions, witness: &impl Witness, range: AddressRange) {
        let invalidation = Invalidation::new(range, Event::Unmap);
        self.finish(subscriptions.invalidate_range_start(witness, invalidation));
    }

    /// As [`unmap`](Self::unmap), where subscribers may not sleep.
    ///
    /// # Errors
    /// [`Refused`]: nothing was unmapped.
    pub fn try_unmap(
        &self,
        subscriptions: &Subscriptions,
        witness: &impl Witness,
        range: AddressRange,
    ) -> Result<(), Refused> {
        let invalidation = Invalidation::new(range, Event::Unmap);
        self.finish(subscriptions.invalidate_range_start_nonblock(witness, invalidation)?);
        Ok(())
    }

    /// Unmaps `range` and tells nobody: how a bug in an owner looks to its subscribers.
    pub fn unmap_silently(&self, range: AddressRange) {
        let unmapped = self.clear(range);
        self.free_frames(unmapped);
    }

    fn finish(&self, guard: InvalidationGuard<'_>) {
        let unmapped = self.clear(guard.invalidation().range());
        drop(guard);
        self.free_frames(unmapped);
    }

    fn clear(&self, range: AddressRange) -> Vec<Translation> {
        let pages = range.start() / PAGE_SIZE..range.end() / PAGE_SIZE;
        pages
            .filter_map(|page| self.entries.get(usize::try_from(page).ok()?))
            .map(|entry| Translation(entry.swap(NONE, AcqRel)))
            .filter(|&translation| translation != Translation(NONE))
            .collect()
    }

    fn free_frames(&self, translations: Vec<Translation>) {
        for translation in translations {
            self.free_frame(translation);
        }
    }

    fn free_frame(&self, translation: Translation) {
        if let Some(frame) = self.frames.get(translation.frame()) {
            frame.store(POISON, Release);
            self.free().push(translation.frame() as u64);
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<u64>> {
        lock(&self.free)
    }
}
