//! Carrying out what [`stock`](super::stock) says: zeroing ahead, and returning memory to the host.

use std::io;
use std::sync::Arc;

use mmu_notifier::sync::atomic::Ordering::Relaxed;

use super::account::Account;
use super::block::Holding;
use super::blocks::Slot;
use super::error::{Shortage, TakeError};
use super::frame_set::FrameSet;
use super::span::bytes;
use super::stock::{Window, punchable};
use super::{Frames, PoolMemory};
use crate::BLOCK_PAGES;

/// How often a take is tried while others give back and take: enough for any that has a chance.
const ATTEMPTS: u32 = 1000;

/// What the worker does next.
#[derive(Debug)]
pub(super) struct Plan {
    windows: Vec<Window>,
}

impl Plan {
    /// The block whose free frames have to be zeroed.
    pub(super) fn zero(&self) -> Option<u64> {
        self.windows.iter().find_map(|window| window.zero)
    }
}

impl Frames {
    /// What the stock lacks now; `None` if there is to be none.
    pub(super) fn plan(&self) -> Option<Plan> {
        let stretches = self.open_stretches();
        let share = self.watermarks?.share(stretches.len() as u64);
        let window = |account: &Arc<Account>| {
            let holding =
                |block| self.blocks.get(block).map_or(Holding::default(), |slot| slot.read().block.holding());
            let window = Window::new(account.cursor(), account.blocks(), share.high, holding);
            account.set_ready(window.ready);
            window
        };
        Some(Plan { windows: stretches.iter().map(window).collect() })
    }

    /// Zeroes up to `at_most` free frames of `block`, or populates them; says whether there were any.
    ///
    /// Nothing is populated for a stretch that has ended, nor while a taker cannot get what it needs.
    pub(super) fn zero_piece(&self, block: u64, at_most: usize) -> Result<bool, TakeError> {
        let mut slot = self.blocks.touch(block).write();
        let needs = slot.block.free_dirty();
        if !self.account(&mut slot, block).is_open() {
            return Ok(false);
        }
        let frames = if let Some(run) = needs.zero.first_run(at_most) {
            let frames = FrameSet::of(&run);
            let start = self.first().plus(block * BLOCK_PAGES);
            self.zero_all(&mut slot, block, frames).map_err(|source| TakeError::Host { start, source })?;
            frames
        } else if let Some(run) = needs.populate.first_run(at_most) {
            if self.denied.load(Relaxed) > 0 {
                return Ok(false);
            }
            self.populate(&mut slot, block, FrameSet::of(&run))?
        } else {
            return Ok(false);
        };
        self.counters.zeroed_ahead.add(frames.len() as u64);
        Ok(true)
    }

    /// How many free frames are more than what is kept.
    pub(super) fn excess(&self) -> u64 {
        let Some(watermarks) = self.watermarks else { return 0 };
        let counters = &self.counters;
        // Read one by one, so they may not fit together; then this is a little off, and put right later.
        let resident = counters.populated.get().saturating_sub(counters.punched.get());
        let used = counters.taken.get().saturating_sub(counters.given_back.get());
        watermarks.excess(resident.saturating_sub(used))
    }

    /// Punches free frames outside the windows of `plan` until there is no excess; says whether any were punched.
    pub(super) fn punch_excess(&self, plan: &Plan) -> bool {
        let mut punched = 0;
        for (block, slot) in self.blocks.touched(0..u64::MAX) {
            if self.excess() == 0 {
                break;
            }
            if plan.windows.iter().any(|window| window.contains(block)) {
                continue;
            }
            punched += self.punch_free(&mut slot.write(), block, FrameSet::ALL).unwrap_or_else(|error| {
                log::warn!("frames of pool {} cannot be returned to the host: {error}", self.number());
                0
            });
        }
        punched > 0
    }

    /// Tries again what fails for want of memory, for as long as free frames can be returned to the host instead.
    ///
    /// Frames may become free behind the back of the search for them, and be used up in front of it by who gave those
    /// back. So a search that found none counts only if nothing became free from before the attempt until after it:
    ///
    /// ```text
    /// this taker                        another
    /// fails, begins to search
    /// block 0: nothing is free
    ///                                   gives frames of block 0 back: counted
    ///                                   takes the free ones of block 1
    /// block 1: nothing is free
    /// the count has changed: once more
    /// ```
    #[cold]
    pub(super) fn reclaiming<T, E: Shortage>(
        &self,
        mut attempt: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        self.denied.fetch_add(1, Relaxed);
        let mut attempts = 1;
        let result = loop {
            let freed = self.ever_freed();
            let error = match attempt() {
                Err(error) => error,
                done => break done,
            };
            let Some(missing) = error.missing() else { break Err(error) };
            let hopeless = self.reclaim(missing) == 0 && self.ever_freed() == freed;
            if hopeless || attempts == ATTEMPTS {
                break Err(error);
            }
            attempts += 1;
        };
        self.denied.fetch_sub(1, Relaxed);
        result
    }

    /// Counts up whenever a frame becomes free, or free ones are returned to the host.
    fn ever_freed(&self) -> u64 {
        let counters = &self.counters;
        counters.given_back.get() + counters.zeroed_ahead.get() + counters.punched.get()
    }

    /// Returns up to `wanted` free frames to the host, or a block of them; says how many it returned.
    fn reclaim(&self, wanted: u64) -> u64 {
        let mut freed = 0;
        for (block, slot) in self.blocks.touched(0..u64::MAX) {
            if freed >= wanted {
                break;
            }
            freed += self.punch_free(&mut slot.write(), block, FrameSet::ALL).unwrap_or(0);
        }
        freed
    }

    /// Punches those of `frames` that can be; says how many.
    pub(super) fn punch_free(&self, slot: &mut Slot, block: u64, frames: FrameSet) -> io::Result<u64> {
        let promised = self.account(slot, block).charge.is_promised();
        // The kernel would keep the page for nobody else, and might not give it back.
        if promised && self.memory() == PoolMemory::Hugetlb {
            return Ok(0);
        }
        let count = punchable(slot.block.holding(), self.is_whole());
        if count == 0 {
            return Ok(0);
        }
        let frames = if self.is_whole() { FrameSet::ALL } else { frames };
        self.punch(slot, block, frames & slot.block.free_present())
    }

    /// Punches free, present `frames` of the block in `slot`; says how many there were.
    pub(super) fn punch(&self, slot: &mut Slot, block: u64, frames: FrameSet) -> io::Result<u64> {
        let mut punched = 0;
        for run in frames.runs() {
            self.store.punch(bytes(block, &run))?;
            let run = FrameSet::of(&run);
            let count = run.len() as u64;
            slot.block.punched(run);
            self.budget.write().refund(&self.account(slot, block).charge, count);
            self.counters.punched.add(count);
            punched += count;
        }
        slot.huge &= slot.block.holding().present > 0;
        Ok(punched)
    }
}
