//! Taking frames and giving them back.

use std::io;
use std::ops::Range;

use mmu_notifier::sync::atomic::Ordering::Relaxed;

use super::blocks::Slot;
use super::error::{Shortage, TakeError, TooFewPages};
use super::frame_set::FrameSet;
use super::span::{Span, bytes};
use super::{FrameError, Frames, PoolMemory};
use crate::frame::PAGES;
use crate::{BLOCK_PAGES, HugePagePool, HugePageSize, Pfn};

/// Whether all frames of a take were zeroed ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stocked(pub bool);

/// What frames are taken as.
#[derive(Clone, Copy)]
struct Take {
    /// Zeros, and not whatever they hold.
    zero: bool,
    /// One huge page.
    huge: bool,
}

impl Frames {
    /// Takes `frames`, all in one block: they are this caller's, present and zero.
    ///
    /// If all were zeroed ahead that is [`Stocked`]; it took no system call and allocated nothing. The worker is not
    /// woken either, however low the stock is: [`nudge`](Self::nudge) does that, when the guest runs again.
    ///
    /// # Errors
    /// [`TakeError`]; nothing is taken. For want of memory or budget it fails only if no free frame of the pool could
    /// be returned to the host instead, and not for frames that are promised, unless the host breaks the promise.
    #[inline]
    pub fn take_zeroed(&self, frames: Range<Pfn>) -> Result<Stocked, TakeError> {
        self.take(&frames, Take { zero: true, huge: false })
    }

    /// As [`take_zeroed`](Self::take_zeroed), for a whole block whose memory is to be one huge page.
    ///
    /// # Errors
    /// [`TakeError`]; where transparent huge pages are what the pool is made of, also
    /// [`NotHuge`](TakeError::NotHuge).
    pub fn take_huge_zeroed(&self, frames: Range<Pfn>) -> Result<Stocked, TakeError> {
        self.take(&frames, Take { zero: true, huge: true })
    }

    /// Takes `frames`, all in one block: they are this caller's and present, and hold anything.
    ///
    /// # Errors
    /// As [`take_zeroed`](Self::take_zeroed).
    pub fn take_for_fill(&self, frames: Range<Pfn>) -> Result<(), TakeError> {
        self.take(&frames, Take { zero: false, huge: false }).map(drop)
    }

    /// As [`take_for_fill`](Self::take_for_fill), for a whole block whose memory is to be one huge page.
    ///
    /// # Errors
    /// As [`take_huge_zeroed`](Self::take_huge_zeroed).
    pub fn take_huge_for_fill(&self, frames: Range<Pfn>) -> Result<(), TakeError> {
        self.take(&frames, Take { zero: false, huge: true }).map(drop)
    }

    /// Whether all of `frames`, in one block, could be taken as zeros without any work, a moment ago.
    #[must_use]
    pub fn is_stocked(&self, frames: &Range<Pfn>) -> bool {
        let Ok(span) = self.takeable(frames) else { return false };
        self.blocks.touch(span.block).write().block.needs(span.set).is_ok_and(|needs| needs.is_empty())
    }

    /// Gives `frames`, all in one block, back. Nobody reads or writes them any more, through any mapping.
    ///
    /// Their memory stays with the pool if there is a worker, which may return it to the host later. Without one it
    /// goes back now, except what is promised on hugetlb, and parts of huge pages.
    ///
    /// # Errors
    /// [`FrameError`]; nothing is given back.
    pub fn give_back(&self, frames: Range<Pfn>) -> Result<(), FrameError> {
        let span = self.takeable(&frames)?;
        let mut slot = self.blocks.touch(span.block).write();
        slot.block.give_back(span.set).map_err(|at| FrameError::NotTaken(span.frame(at)))?;
        self.counters.given_back.add(span.len());
        if self.watermarks.is_some() {
            drop(slot);
            if self.excess() > 0 {
                self.signal.want();
            }
        } else if let Err(error) = self.punch_free(&mut slot, span.block, span.set) {
            log::warn!("frames given back to pool {} stay resident: {error}", self.number());
        }
        Ok(())
    }

    /// Wakes the worker if takes or frames given back have left it something to do. Otherwise it costs nothing.
    #[inline]
    pub fn nudge(&self) {
        if self.watermarks.is_some() {
            self.signal.nudge();
        }
    }

    #[inline]
    fn take(&self, frames: &Range<Pfn>, how: Take) -> Result<Stocked, TakeError> {
        let span = self.takeable(frames)?;
        match self.try_take(&span, how) {
            Err(error) if error.missing().is_some() => self.reclaiming(|| self.try_take(&span, how)),
            result => result,
        }
    }

    #[inline]
    fn try_take(&self, span: &Span, Take { zero, huge }: Take) -> Result<Stocked, TakeError> {
        let mut slot = self.blocks.touch(span.block).write();
        let needs = slot.block.needs(span.set).map_err(|at| TakeError::Taken(span.frame(at)))?;
        let is_small = |slot: &Slot| huge && self.memory() == PoolMemory::ShmemHuge && !slot.huge;
        if is_small(&slot) && slot.block.holding().present > 0 {
            return Err(TakeError::NotHuge { start: span.first });
        }
        if !needs.is_empty() {
            self.prepare(&mut slot, span, needs.populate, if zero { needs.zero } else { FrameSet::EMPTY })?;
        }
        if is_small(&slot) {
            return Err(TakeError::NotHuge { start: span.first });
        }
        slot.block.take(span.set);
        self.counters.taken.add(span.len());
        let low = self.account(&mut slot, span.block).advance(span.block, self.low.load(Relaxed));
        drop(slot);

        let stocked = needs.is_empty();
        if zero && !stocked {
            self.counters.zeroed_at_take.add((needs.populate.len() + needs.zero.len()) as u64);
        } else if !zero {
            self.counters.taken_for_fill.add(span.len());
        }
        if low || !stocked {
            self.signal.want();
        }
        Ok(Stocked(stocked))
    }

    #[cold]
    fn prepare(
        &self,
        slot: &mut Slot,
        span: &Span,
        populate: FrameSet,
        zero: FrameSet,
    ) -> Result<(), TakeError> {
        if !populate.is_empty() {
            self.populate(slot, span.block, populate)?;
        }
        self.zero_all(slot, span.block, zero).map_err(|source| TakeError::Host { start: span.first, source })
    }

    /// Zeroes free, present `frames` of the block in `slot`.
    pub(super) fn zero_all(&self, slot: &mut Slot, block: u64, frames: FrameSet) -> io::Result<()> {
        for run in frames.runs() {
            self.store.zero(bytes(block, &run))?;
        }
        slot.block.zeroed(frames);
        Ok(())
    }

    /// Populates absent `frames` of the block in `slot`; where memory comes in huge pages the whole block, if nothing
    /// of it is there. Returns what was populated.
    ///
    /// Where there is no memory for all of a block of shmem, there may be for the frames that are wanted.
    pub(super) fn populate(
        &self,
        slot: &mut Slot,
        block: u64,
        frames: FrameSet,
    ) -> Result<FrameSet, TakeError> {
        if self.is_whole() && slot.block.holding().present == 0 {
            match self.populate_exactly(slot, block, FrameSet::ALL) {
                Ok(()) => {
                    slot.huge = self.store.is_huge(bytes(block, &(0..PAGES)));
                    return Ok(FrameSet::ALL);
                }
                Err(error)
                    if error.missing().is_none()
                        || self.memory() == PoolMemory::Hugetlb
                        || frames == FrameSet::ALL =>
                {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
        self.populate_exactly(slot, block, frames)?;
        Ok(frames)
    }

    fn populate_exactly(&self, slot: &mut Slot, block: u64, frames: FrameSet) -> Result<(), TakeError> {
        let count = frames.len() as u64;
        let account = self.account(slot, block);
        self.budget.write().charge(&account.charge, count)?;
        let populated = frames.runs().try_for_each(|run| self.store.populate(bytes(block, &run)));
        if let Err(source) = populated {
            // Some may be there.
            for run in frames.runs() {
                if let Err(error) = self.store.punch(bytes(block, &run)) {
                    log::warn!("frames of pool {} may stay resident: {error}", self.number());
                }
            }
            self.budget.write().refund(&account.charge, count);
            return Err(self.populate_error(block, frames, source));
        }
        slot.block.populated(frames);
        self.counters.populated.add(count);
        Ok(())
    }

    fn populate_error(&self, block: u64, frames: FrameSet, source: io::Error) -> TakeError {
        let first = frames.first().unwrap_or(0) as u64;
        let start = Pfn::new(self.number(), block * BLOCK_PAGES + first);
        // EFAULT is what the kernel says where a touch would be a SIGBUS.
        if !matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::ENOMEM | libc::EFAULT)) {
            return TakeError::Host { start, source };
        }
        match self.memory() {
            PoolMemory::Hugetlb => match HugePagePool::read(HugePageSize::Mb2) {
                Ok(pool) => TooFewPages { needed: 1, pool, source }.into(),
                Err(_) => TakeError::Host { start, source },
            },
            _ => TakeError::NoMemory { start, frames: frames.len() as u64, source },
        }
    }
}
