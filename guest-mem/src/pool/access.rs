//! Reading and writing frames through the direct map.
//!
//! Each operation looks whether the frames are taken, which is what makes it safe to touch them. That they stay so
//! meanwhile is up to their owner, who is the caller.

use std::io;
use std::ops::Range;

use super::span::{Span, bytes};
use super::{FrameError, Frames};
use crate::Pfn;
use mmu_notifier::PAGE_SIZE;

impl Frames {
    /// Zeroes taken `frames`, all in one block.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn zero(&self, frames: Range<Pfn>) -> Result<(), FrameError> {
        let span = self.taken(&frames)?;
        span.set.runs().try_for_each(|run| self.store.zero(bytes(span.block, &run)))?;
        Ok(())
    }

    /// Copies `bytes` to `offset` bytes behind the start of the frame `start`; all frames up to their end are taken and
    /// in one block.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn write(&self, start: Pfn, offset: u64, bytes: &[u8]) -> Result<(), FrameError> {
        self.taken_bytes(start, offset, bytes.len())?;
        Ok(self.store.write(start.offset() + offset, bytes)?)
    }

    /// The reverse of [`write`](Self::write).
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn read(&self, start: Pfn, offset: u64, bytes: &mut [u8]) -> Result<(), FrameError> {
        self.taken_bytes(start, offset, bytes.len())?;
        Ok(self.store.read(start.offset() + offset, bytes)?)
    }

    /// Copies the taken frames `from`, all in one block, to as many taken ones from `to` on, all in one block.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn copy(&self, from: Range<Pfn>, to: Pfn) -> Result<(), FrameError> {
        let len = self.taken(&from)?.len();
        self.taken(&(to..to.plus(len)))?;
        let start = from.start.offset();
        Ok(self.store.copy(start..start + len * PAGE_SIZE, to.offset())?)
    }

    /// `frames`, if all of them are taken.
    fn taken(&self, frames: &Range<Pfn>) -> Result<Span, FrameError> {
        let span = self.span(frames)?;
        // A block that nothing was ever taken from is not touched by looking.
        let taken = match self.blocks.get(span.block) {
            Some(slot) => slot.read().block.check_taken(span.set),
            None => Err(frames.start.in_block()),
        };
        taken.map_err(|at| FrameError::NotTaken(span.frame(at)))?;
        Ok(span)
    }

    fn taken_bytes(&self, start: Pfn, offset: u64, len: usize) -> Result<(), FrameError> {
        if len == 0 {
            return Ok(());
        }
        let overflow = || io::Error::from(io::ErrorKind::InvalidInput);
        let end =
            offset.checked_add(len as u64).filter(|end| *end <= crate::BLOCK_SIZE).ok_or_else(overflow)?;
        self.taken(&(start.plus(offset / PAGE_SIZE)..start.plus(end.div_ceil(PAGE_SIZE)))).map(drop)
    }
}
