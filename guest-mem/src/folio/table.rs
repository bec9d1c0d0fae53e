//! The metadata of a pool's frames, made where it is first used.

use std::{fmt, mem::size_of, ops::Range};

use once_cell::race::OnceBox;
use thiserror::Error;

use super::{
    ExclusiveFolio, FolioBorrow, FolioRef, PAGES,
    lock::{Flags, Queues},
    mapcount::Mapcount,
    references::References,
};
use crate::frame::{BLOCK_PAGES, PageSize};
use mmu_notifier::sync::atomic::AtomicU32;

/// Blocks whose metadata is made together: a page of the host's, for 128 MiB.
const CHUNK_BLOCKS: usize = if cfg!(loom) { 2 } else { 64 };

/// Frames of a chunk.
const CHUNK_PAGES: u64 = BLOCK_PAGES * CHUNK_BLOCKS as u64;

/// The metadata of all the frames of a pool.
///
/// A block of 2 MiB is used either as one huge folio or as 512 base folios. Which one is up to the pool that hands out
/// the frames. Metadata is made with the range that is first claimed and has one address until the table is dropped.
pub struct FrameTable {
    frames: u64,
    chunks: Box<[OnceBox<Chunk>]>,
    queues: Queues,
    release: Box<Release>,
}

/// What is done with a folio whose last reference was dropped.
type Release = dyn Fn(ExclusiveFolio<'_>) + Send + Sync;

/// Why a frame cannot be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// There is no such frame.
    #[error(
        "there is no frame {index:#x} in a table of {frames:#x}: claim one of those the table was made for"
    )]
    OutOfRange {
        /// The frame that was asked for.
        index: u64,
        /// Frames of the table.
        frames: u64,
    },
    /// The frame was not freed since it was last claimed, or its block is used in the other size.
    #[error("frame {0:#x} is in use: free it, and every folio that overlaps it, before it is claimed")]
    InUse(u64),
}

/// Consecutive blocks.
#[derive(Debug)]
struct Chunk([Block; CHUNK_BLOCKS]);

/// The metadata of a block, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Block {
    pub(super) head: Head,
    pub(super) mapcount: Mapcount,
    /// Made when the block is first used as base folios.
    base: OnceBox<BaseFolios>,
}

/// On cache lines that they share with no other block's.
#[derive(Debug)]
#[repr(align(64))]
struct BaseFolios([BaseFolio; PAGES]);

/// The metadata of a folio of one frame.
#[derive(Debug, Default)]
#[repr(align(16))]
pub(super) struct BaseFolio {
    pub(super) head: Head,
    /// Page-table entries that map it.
    pub(super) mapcount: AtomicU32,
}

/// What folios of both sizes have.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) references: References,
    pub(super) flags: Flags,
}

// loom's atomics are larger.
const _: () = if !cfg!(loom) {
    let of_block = size_of::<Block>() + Mapcount::BYTES_BESIDE + size_of::<BaseFolios>();
    assert!(of_block <= 64 * PAGES, "a frame costs at most 64 bytes, whatever its block was used as");
    assert!(size_of::<Block>() == 64, "a block that is only ever mapped huge costs at most 128 bytes");
    assert!(size_of::<BaseFolio>() == 16);
    assert!(size_of::<Chunk>() == 4096);
};

/// The metadata of one folio.
#[derive(Clone, Copy, Debug)]
pub(super) enum Meta<'t> {
    Huge(&'t Block),
    Base(&'t BaseFolio),
}

impl<'t> Meta<'t> {
    #[inline]
    pub(super) fn head(self) -> &'t Head {
        match self {
            Self::Huge(block) => &block.head,
            Self::Base(base) => &base.head,
        }
    }
}

impl FrameTable {
    /// A table for `frames` frames of 4 KiB, none of them in use. Folios whose last reference is dropped are free.
    #[must_use]
    pub fn new(frames: u64) -> Self {
        Self::with_release(frames, |folio: ExclusiveFolio<'_>| folio.free())
    }

    /// A table for `frames` frames of 4 KiB, none of them in use.
    ///
    /// `release` is given every folio whose last reference was dropped, on the thread that dropped it and under
    /// whatever locks that holds. It frees the folio, and then gives its frames back to where they came from.
    #[must_use]
    pub fn with_release(frames: u64, release: impl Fn(ExclusiveFolio<'_>) + Send + Sync + 'static) -> Self {
        let chunks = frames.div_ceil(CHUNK_PAGES);
        Self {
            frames,
            chunks: (0..chunks).map(|_| OnceBox::new()).collect(),
            queues: Queues::default(),
            release: Box::new(release),
        }
    }

    /// Frames of 4 KiB that the table was made for.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// One more reference to the folio of `size` that the frame `index` lies in. `None` if it is free or exclusive.
    ///
    /// Lock-free. Whoever has `index` from a place that may have changed looks at that place again, now that the
    /// folio stays what it is.
    #[inline]
    #[must_use]
    pub fn try_get(&self, index: u64, size: PageSize) -> Option<FolioRef<'_>> {
        let folio = self.borrow(index, size)?;
        folio.head().references.try_get().then(|| FolioRef::new(folio))
    }

    /// The folio of `size` that the frame `index` lies in, without a reference. `None` if it was never claimed.
    ///
    /// For whoever holds the page-table lock of an entry that has a reference to it.
    #[inline]
    #[must_use]
    pub fn borrow(&self, index: u64, size: PageSize) -> Option<FolioBorrow<'_>> {
        if index >= self.frames {
            return None;
        }
        let (chunk, in_chunk, page) = place(index);
        let block = self.chunks.get(chunk)?.get()?.0.get(in_chunk)?;
        Some(match size {
            PageSize::Huge => FolioBorrow::new(self, Meta::Huge(block), index - page as u64),
            PageSize::Base => FolioBorrow::new(self, Meta::Base(block.base.get()?.0.get(page)?), index),
        })
    }

    /// Takes the folio of `size` that the frame `index` lies in into use: free becomes exclusive, and not up to date.
    ///
    /// That a block is not used in both sizes at a time is up to the caller; it is looked at here, but not against
    /// another claim that goes on meanwhile.
    ///
    /// # Errors
    /// There is no such frame, all of it, or it is in use.
    pub fn claim(&self, index: u64, size: PageSize) -> Result<ExclusiveFolio<'_>, ClaimError> {
        let (chunk, in_chunk, page) = place(index);
        let first = if size == PageSize::Huge { index - page as u64 } else { index };
        let out_of_range = ClaimError::OutOfRange { index, frames: self.frames };
        if self.frames.checked_sub(first).is_none_or(|left| left < size.pages()) {
            return Err(out_of_range);
        }
        let chunk = self.chunks.get(chunk).ok_or(out_of_range)?.get_or_init(Chunk::boxed);
        let block = chunk.0.get(in_chunk).ok_or(out_of_range)?;
        let (meta, overlapped) = match size {
            PageSize::Huge => (Meta::Huge(block), block.any_base_in_use()),
            PageSize::Base => {
                let base = block.base.get_or_init(BaseFolios::boxed).0.get(page).ok_or(out_of_range)?;
                (Meta::Base(base), block.head.flags.in_use())
            }
        };
        if overlapped || !meta.head().flags.claim() {
            return Err(ClaimError::InUse(first));
        }
        Ok(ExclusiveFolio::new(FolioBorrow::new(self, meta, first)))
    }

    /// The folio in use that the frame `index` lies in, whatever its size: a moment ago, unless the caller has a reference
    /// to it.
    #[must_use]
    pub fn find(&self, index: u64) -> Option<FolioBorrow<'_>> {
        [PageSize::Huge, PageSize::Base]
            .into_iter()
            .find_map(|size| self.borrow(index, size).filter(|folio| folio.flags().in_use()))
    }

    /// The folios in use that have one of the frames `frames`, in order, each as it was a moment ago.
    ///
    /// Costs little where nothing was ever claimed.
    pub fn in_use(&self, frames: Range<u64>) -> impl Iterator<Item = FolioBorrow<'_>> {
        self.made(frames.clone()).flat_map(move |(first, block)| {
            let huge = FolioBorrow::new(self, Meta::Huge(block), first);
            let base = block.base.get().map_or(&[][..], |base| &base.0);
            let base = (first..).zip(base).filter({
                let frames = frames.clone();
                move |(index, _)| frames.contains(index)
            });
            let base = base.map(|(index, base)| FolioBorrow::new(self, Meta::Base(base), index));
            std::iter::once(huge).chain(base).filter(|folio| folio.flags().in_use())
        })
    }

    /// Bytes of metadata that were made so far, the table itself included.
    #[must_use]
    pub fn metadata_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.chunks) + self.metadata_bytes_of(0..self.frames)
    }

    /// Bytes of metadata that were made so far for the frames `frames`, and for others of their 128 MiB.
    #[must_use]
    pub fn metadata_bytes_of(&self, frames: Range<u64>) -> usize {
        let chunks = self.made_chunks(frames.clone()).count() * size_of::<Chunk>();
        chunks + self.made(frames).map(|(_, block)| block.bytes_beside()).sum::<usize>()
    }

    /// The blocks that have one of `frames` and whose metadata was made, each with its first frame, in order.
    fn made(&self, frames: Range<u64>) -> impl Iterator<Item = (u64, &Block)> {
        let wanted = frames.start / BLOCK_PAGES..frames.end.div_ceil(BLOCK_PAGES);
        self.made_chunks(frames).flat_map(move |(chunk, made)| {
            let wanted = wanted.clone();
            let numbered = ((chunk * CHUNK_BLOCKS) as u64..).zip(&made.0);
            let numbered = numbered.filter(move |(number, _)| wanted.contains(number));
            numbered.map(|(number, block)| (number * BLOCK_PAGES, block))
        })
    }

    /// The chunks that have one of `frames` and were made, by their numbers.
    fn made_chunks(&self, frames: Range<u64>) -> impl Iterator<Item = (usize, &Chunk)> {
        let end = frames.end.min(self.frames);
        let chunks = place(frames.start).0..place(end.next_multiple_of(CHUNK_PAGES)).0;
        chunks.filter_map(|chunk| Some((chunk, self.chunks.get(chunk)?.get()?)))
    }

    pub(super) fn queues(&self) -> &Queues {
        &self.queues
    }

    #[cold]
    pub(super) fn release(&self, folio: ExclusiveFolio<'_>) {
        (self.release)(folio);
    }
}

/// The chunk of a frame, its block in that, and its page in that.
#[inline]
fn place(index: u64) -> (usize, usize, usize) {
    let (block, page) = ((index / BLOCK_PAGES) as usize, (index % BLOCK_PAGES) as usize);
    (block / CHUNK_BLOCKS, block % CHUNK_BLOCKS, page)
}

impl Chunk {
    fn boxed() -> Box<Self> {
        Box::new(Self(std::array::from_fn(|_| Block::default())))
    }
}

impl Block {
    fn any_base_in_use(&self) -> bool {
        self.base.get().is_some_and(|base| base.0.iter().any(|folio| folio.head.flags.in_use()))
    }

    /// Bytes made for it beside its own.
    fn bytes_beside(&self) -> usize {
        self.base.get().map_or(0, size_of_val) + self.mapcount.bytes_beside()
    }
}

impl BaseFolios {
    fn boxed() -> Box<Self> {
        Box::new(Self(std::array::from_fn(|_| BaseFolio::default())))
    }
}

impl fmt::Debug for FrameTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = self.chunks.iter().filter(|chunk| chunk.get().is_some()).count();
        f.debug_struct("FrameTable")
            .field("frames", &self.frames)
            .field("chunks", &made)
            .finish_non_exhaustive()
    }
}
