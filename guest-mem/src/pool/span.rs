//! Frames of one block.

use std::ops::Range;

use mmu_notifier::PAGE_SIZE;

use super::frame_set::FrameSet;
use super::{BadFrames, Frames, PoolMemory};
use crate::{BLOCK_PAGES, BLOCK_SIZE, Pfn};

/// Frames in a row of one block of the pool.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) first: Pfn,
    /// The block's number in its pool.
    pub(super) block: u64,
    pub(super) set: FrameSet,
}

impl Span {
    /// The frame at `place` of the block.
    pub(super) fn frame(&self, place: usize) -> Pfn {
        self.first.block().plus(place as u64)
    }

    pub(super) fn len(&self) -> u64 {
        self.set.len() as u64
    }
}

impl Frames {
    /// `frames` as frames of one block of this pool.
    #[inline]
    pub(super) fn span(&self, frames: &Range<Pfn>) -> Result<Span, BadFrames> {
        let Range { start, end } = *frames;
        let here = self.first();
        if start < here || end > here.plus(self.frames()) {
            let pool = self.number();
            return Err(BadFrames::NotHere { start, end, pool, frames: self.frames() });
        }
        if start >= end || end > start.block().plus(BLOCK_PAGES) {
            return Err(BadFrames::NotOneBlock { start, end });
        }
        let places = start.in_block()..Pfn::from_bits(end.bits() - 1).in_block() + 1;
        Ok(Span { first: start, block: start.index() / BLOCK_PAGES, set: FrameSet::of(&places) })
    }

    /// As [`span`](Self::span), for frames that are taken or given back: on hugetlb only whole blocks.
    #[inline]
    pub(super) fn takeable(&self, frames: &Range<Pfn>) -> Result<Span, BadFrames> {
        let span = self.span(frames)?;
        if self.memory() == PoolMemory::Hugetlb && span.set != FrameSet::ALL {
            return Err(BadFrames::NotWhole { start: frames.start, frames: span.set.len() });
        }
        Ok(span)
    }
}

/// The bytes of a pool that the frames `places` of `block` are.
pub(super) fn bytes(block: u64, places: &Range<usize>) -> Range<u64> {
    let start = block * BLOCK_SIZE;
    start + places.start as u64 * PAGE_SIZE..start + places.end as u64 * PAGE_SIZE
}
