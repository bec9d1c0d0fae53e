//! What to zero or punch next: the policy, with no thread and no memory.
//!
//! Whoever touches memory in order touches ascending addresses, so what is kept ready for a stretch is what lies in
//! front of its cursor, the block that was taken from last. Behind the last block comes the first.
//!
//! ```text
//!            cursor        ready
//!  taken     taken  stock  dirty or absent
//! |xxxxxxxxx|xxxxx.|......|~~~~~~~~~~~~~~~~~~~~|
//!            <----------> the window: until the stock in it has reached the high watermark
//! ```
//!
//! Outside the windows a free frame is of use only as long as all free frames together are not above the watermark.

use std::ops::Range;

use super::Watermarks;
use super::block::Holding;
use crate::BLOCK_PAGES;

/// What there is in front of a cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// The block whose free frames have to be zeroed next.
    pub(super) zero: Option<u64>,
    /// The end of the blocks that are ready; `u64::MAX` if that is as far as the stretch goes.
    pub(super) ready: u64,
    /// Where it begins.
    cursor: u64,
    /// The blocks of the stretch.
    blocks: Range<u64>,
    /// How many blocks, from the cursor on and round the end, are in it.
    len: u64,
}

impl Watermarks {
    /// One of `stretches` shares, at least a block each.
    pub(super) fn share(self, stretches: u64) -> Self {
        let share = |blocks: u64| blocks.div_ceil(stretches.max(1));
        Self { low: share(self.low), high: share(self.high) }
    }

    /// How many of the free, present frames are more than what is kept.
    pub(super) fn excess(self, free_present: u64) -> u64 {
        free_present.saturating_sub(self.high.saturating_mul(BLOCK_PAGES))
    }
}

impl Window {
    /// The window in front of `cursor`, one of `blocks`, that is to hold `high` blocks of stock.
    pub(super) fn new(cursor: u64, blocks: Range<u64>, high: u64, holding: impl Fn(u64) -> Holding) -> Self {
        let wanted = high.saturating_mul(BLOCK_PAGES);
        let mut window = Self { zero: None, ready: cursor, cursor, blocks: blocks.clone(), len: 0 };
        let mut stocked = 0;
        for block in (cursor..blocks.end).chain(blocks.start..cursor) {
            if stocked >= wanted {
                return window;
            }
            let holding = holding(block);
            window.len += 1;
            stocked += holding.clean;
            if holding.clean + holding.used < BLOCK_PAGES {
                window.zero = Some(block);
                return window;
            }
            // Beyond the end lies nothing that could run out.
            window.ready = if block + 1 == blocks.end { u64::MAX } else { window.ready.max(block + 1) };
        }
        window
    }

    /// Whether `block` is in it.
    pub(super) fn contains(&self, block: u64) -> bool {
        let Range { start, end } = self.blocks;
        let ahead =
            if block >= self.cursor { block - self.cursor } else { block + (end - start) - self.cursor };
        self.blocks.contains(&block) && ahead < self.len
    }
}

/// How many frames of a block can be punched; all or nothing if it is `whole`.
pub(super) fn punchable(holding: Holding, whole: bool) -> u64 {
    if whole && holding.used > 0 { 0 } else { holding.free_present() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABSENT: Holding = Holding { present: 0, clean: 0, used: 0 };
    const STALE: Holding = Holding { present: BLOCK_PAGES, clean: 0, used: 0 };
    const CLEAN: Holding = Holding { present: BLOCK_PAGES, clean: BLOCK_PAGES, used: 0 };
    const USED: Holding = Holding { present: BLOCK_PAGES, clean: 0, used: BLOCK_PAGES };
    /// Half taken, half zero.
    const HALF: Holding = Holding { present: BLOCK_PAGES, clean: BLOCK_PAGES / 2, used: BLOCK_PAGES / 2 };

    /// The window of a stretch that begins at block 100.
    fn window(cursor: u64, high: u64, blocks: &[Holding]) -> Window {
        let range = 100..100 + blocks.len() as u64;
        Window::new(cursor, range, high, |block| blocks[usize::try_from(block).unwrap() - 100])
    }

    #[test]
    fn the_first_block_in_front_of_the_cursor_that_is_not_ready_is_next() {
        let next = |blocks: &[Holding]| window(100, 3, blocks).zero;

        assert_eq!(next(&[USED, CLEAN, ABSENT, STALE]), Some(102));
        assert_eq!(next(&[USED, CLEAN, STALE, ABSENT]), Some(102));
        assert_eq!(next(&[HALF, USED, CLEAN, STALE]), Some(103));
        assert_eq!(next(&[ABSENT]), Some(100));
    }

    #[test]
    fn nothing_is_zeroed_once_the_window_holds_the_high_watermark() {
        let full = window(100, 2, &[USED, CLEAN, CLEAN, ABSENT]);

        assert_eq!((full.zero, full.ready), (None, 103));
        assert!(full.contains(102) && !full.contains(103));
    }

    #[test]
    fn a_watermark_of_zero_keeps_nothing() {
        let none = window(100, 0, &[ABSENT, ABSENT]);

        assert_eq!(none.zero, None);
        assert!(!none.contains(100));
    }

    #[test]
    fn after_the_last_block_comes_the_first() {
        let blocks = [ABSENT, STALE, USED, CLEAN];

        let wrapped = window(102, 2, &blocks);

        assert_eq!((wrapped.zero, wrapped.ready), (Some(100), u64::MAX));
        assert!(wrapped.contains(102) && wrapped.contains(103) && wrapped.contains(100));
        assert!(!wrapped.contains(101) && !wrapped.contains(99) && !wrapped.contains(104));
    }

    #[test]
    fn a_stretch_that_is_all_taken_wants_nothing() {
        let taken = window(101, 4, &[USED, USED, USED]);

        assert_eq!((taken.zero, taken.ready), (None, u64::MAX));
    }

    #[test]
    fn what_is_free_above_the_watermark_is_too_much() {
        let marks = Watermarks { low: 1, high: 4 };

        assert_eq!(marks.excess(4 * BLOCK_PAGES), 0);
        assert_eq!(marks.excess(4 * BLOCK_PAGES + 7), 7);
    }

    #[test]
    fn every_stretch_gets_a_share_and_none_gets_nothing() {
        let marks = Watermarks { low: 2, high: 9 };

        assert_eq!(marks.share(3), Watermarks { low: 1, high: 3 });
        assert_eq!(marks.share(100), Watermarks { low: 1, high: 1 });
        assert_eq!(marks.share(0), marks);
    }

    #[test]
    fn a_block_that_is_punched_whole_is_punched_when_nobody_has_any_of_it() {
        assert_eq!(punchable(HALF, false), BLOCK_PAGES / 2);
        assert_eq!(punchable(HALF, true), 0);
        assert_eq!(punchable(STALE, true), BLOCK_PAGES);
        assert_eq!(punchable(ABSENT, false), 0);
    }
}
