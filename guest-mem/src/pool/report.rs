//! What a pool holds, and what it did.

use std::ops::Range;

use mmu_notifier::sync::Tally;

use super::Frames;
use super::frame_set::FrameSet;
use crate::{BLOCK_PAGES, Pfn};

/// How many frames there are of each kind, exactly, when nobody takes any meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageReport {
    /// Frames that the host has memory for.
    pub resident: u64,
    /// Resident frames that somebody has.
    pub used: u64,
    /// Resident frames that are free and zero.
    pub clean: u64,
}

/// What a pool holds, and what it did since it was made; all numbers are frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolReport {
    /// What it holds.
    pub usage: UsageReport,
    /// Frames that are resident or promised: what the budget limits.
    pub charged: u64,
    /// Taken, zero, and zeroed ahead.
    pub stock_hits: u64,
    /// Taken, and zeroed or populated at that moment.
    pub zeroed_at_take: u64,
    /// Taken for a fill.
    pub taken_for_fill: u64,
    /// Zeroed or populated ahead.
    pub zeroed_ahead: u64,
    /// Made resident.
    pub populated: u64,
    /// Returned to the host.
    pub punched: u64,
}

/// The counts behind a [`PoolReport`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// The only one that a take from the stock changes.
    pub(super) taken: Tally,
    pub(super) given_back: Tally,
    pub(super) zeroed_at_take: Tally,
    pub(super) taken_for_fill: Tally,
    pub(super) zeroed_ahead: Tally,
    pub(super) populated: Tally,
    pub(super) punched: Tally,
}

impl Frames {
    /// What the pool holds, and what it did. Looks at every block that was ever touched.
    #[must_use]
    pub fn report(&self) -> PoolReport {
        let counters = &self.counters;
        let zeroed_at_take = counters.zeroed_at_take.get();
        let taken_for_fill = counters.taken_for_fill.get();
        PoolReport {
            usage: self.usage_of(0..u64::MAX),
            charged: self.budget.read().charged(),
            stock_hits: counters.taken.get().saturating_sub(zeroed_at_take + taken_for_fill),
            zeroed_at_take,
            taken_for_fill,
            zeroed_ahead: counters.zeroed_ahead.get(),
            populated: counters.populated.get(),
            punched: counters.punched.get(),
        }
    }

    /// For tests: nobody has a frame, and all counts agree.
    ///
    /// # Panics
    /// If somebody has, or they do not.
    #[track_caller]
    pub fn assert_all_free(&self) {
        let report = self.report();
        let counters = &self.counters;
        assert_eq!(report.usage.used, 0, "frames are still taken: {report:?}");
        assert_eq!(counters.taken.get(), counters.given_back.get(), "more taken than given back: {report:?}");
        assert_eq!(report.usage.resident, report.populated - report.punched, "frames got lost: {report:?}");
        assert!(report.charged >= report.usage.resident, "frames were not charged: {report:?}");
    }

    /// What the frames of `blocks` are used for.
    pub(super) fn usage_of(&self, blocks: Range<u64>) -> UsageReport {
        let mut usage = UsageReport::default();
        for (_, slot) in self.blocks.touched(blocks) {
            let holding = slot.read().block.holding();
            usage.resident += holding.present;
            usage.used += holding.used;
            usage.clean += holding.clean;
        }
        usage
    }

    /// The first of the frames at `places` of the pool that is taken.
    pub(super) fn first_taken(&self, places: Range<u64>) -> Option<Pfn> {
        let blocks = places.start / BLOCK_PAGES..places.end.div_ceil(BLOCK_PAGES);
        self.blocks.touched(blocks).find_map(|(block, slot)| {
            let start = block * BLOCK_PAGES;
            let place =
                |index: u64| usize::try_from(index.clamp(start, start + BLOCK_PAGES) - start).unwrap_or(0);
            let set = FrameSet::of(&(place(places.start)..place(places.end)));
            let taken = slot.read().block.needs(set).err()?;
            Some(Pfn::new(self.number(), start + taken as u64))
        })
    }
}
