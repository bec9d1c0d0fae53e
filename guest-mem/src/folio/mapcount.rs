//! How often page tables map a huge folio: as a whole, and page by page.
//!
//! A page's mapcount is the number of huge mappings plus the page's own number, since one VM may map the folio huge
//! while another maps pages of it. Linux used to read its compound pages' mapcounts through a sequence count; this is
//! that idea with one difference. Linux kept every page's own count raised by one while both kinds of mapping existed,
//! and had to take all of it back when the last huge mapping went: a write that readers had to be kept from seeing
//! half of. Here nothing is raised, so a huge mapping comes or goes in one step, and only a split writes in several.
//!
//! The number of huge mappings and the sequence count share a word:
//!
//! ```text
//!           63                  33  32   31                    0
//!          +----------------------+----+-----------------------+
//!          | sequence             | S  | huge mappings         |      S: a split is under way
//!          +----------------------+----+-----------------------+
//! map huge        + 1                        + 1                one atomic addition
//! unmap huge      + 1                        - 1                one atomic addition
//! split                     0 -> 1                              taken like a lock: splits exclude each other
//!                                                               each page + 1
//!                 + 1       1 -> 0           - 1                one atomic addition
//! ```
//!
//! A reader reads the word, then what it wants of the pages, then the word again, and starts over if the word changed
//! or a split is under way. If it did not change, no huge mapping came, went or was split meanwhile, and the sum is
//! one that was true while the reader looked. That holds for any history, not only where all counts move one way:
//!
//! ```text
//! reader                    one VM               another          the page's mapcount
//! word: 1 huge                                                    1
//! page: 0
//!                                                map page         2
//!                           unmap huge                            1
//! word: 0 huge, changed: start over, where a plain sum would have said 0
//! ```
//!
//! So a page's mapcount and the total never go down and up again, nor up and down, while mappings only go, and a split
//! changes a page's mapcount for no reader and the total once, by one less than the pages. The largest mapcount is a
//! scan of the pages: exact against everything that is done to huge mappings, and one-way while pages are only
//! mapped or only unmapped.
//!
//! A reader waits only for a split. The sequence count wraps after 2^31 changes, and a reader that sleeps for exactly
//! so many between its two looks would not notice.

use mmu_notifier::sync::{
    atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    hint, thread,
};
use once_cell::race::OnceBox;

use super::PAGES;
use crate::planted::{self, Bug};

/// One huge mapping in [`Mapcount::huge`].
const HUGE: u64 = 1;
/// Set in [`Mapcount::huge`] while a split is under way.
const SPLITTING: u64 = 1 << 32;
/// One step of the sequence count in [`Mapcount::huge`]. What overflows is lost at the top.
const STEP: u64 = 1 << 33;
/// What [`Mapcount::sum`] grows by in a split.
#[expect(clippy::cast_possible_truncation, reason = "512, or 2")]
const ALL: u32 = PAGES as u32;
/// How often a reader looks again before it lets other threads run.
const SPINS: u32 = 100;

/// The mapcounts of a huge folio.
#[derive(Debug, Default)]
pub(super) struct Mapcount {
    /// Huge mappings and the sequence count, as drawn above.
    huge: AtomicU64,
    /// The sum of [`pages`](Self::pages): raised before a page's own count and lowered after it, so never less.
    sum: AtomicU32,
    /// Mappings of each page by itself. Made when the first page is mapped so.
    pages: OnceBox<Pages>,
}

/// On cache lines of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Pages([AtomicU32; PAGES]);

impl Mapcount {
    /// Bytes made for it beside its own, at most.
    pub(super) const BYTES_BESIDE: usize = size_of::<Pages>();

    pub(super) fn map_huge(&self) {
        // Release, here and in all that is added or subtracted below: pairs with the Acquire loads of the readers.
        self.huge.fetch_add(step() + HUGE, Release);
    }

    pub(super) fn unmap_huge(&self) {
        if planted::is(Bug::UnmapByPieces) {
            self.split();
            (0..PAGES).for_each(|page| self.unmap_page(page));
            return;
        }
        let before = self.huge.fetch_add(step().wrapping_sub(HUGE), Release);
        debug_assert!(huge_mappings(before) > 0, "a huge mapping goes that never came");
    }

    pub(super) fn map_page(&self, page: usize) {
        self.sum.fetch_add(1, Release);
        self.pages().of(page).fetch_add(1, Release);
    }

    pub(super) fn unmap_page(&self, page: usize) {
        let before = self.pages().of(page).fetch_sub(1, Release);
        debug_assert!(before > 0, "a mapping of a page goes that never came");
        self.sum.fetch_sub(1, Release);
    }

    /// Makes a mapping of every page out of a huge mapping.
    pub(super) fn split(&self) {
        let pages = self.pages();
        let silent = planted::is(Bug::SplitPagesFirst) || planted::is(Bug::SplitHugeFirst);
        if planted::is(Bug::SplitHugeFirst) {
            self.huge.fetch_sub(HUGE, Release);
        }
        if !silent {
            self.begin_split();
        }
        self.sum.fetch_add(ALL, Release);
        for page in &pages.0 {
            page.fetch_add(1, Release);
        }
        if planted::is(Bug::SplitPagesFirst) {
            self.huge.fetch_sub(HUGE, Release);
        }
        if !silent {
            // Release: pairs with the Acquire in `begin_split` too.
            let before = self.huge.fetch_add(STEP.wrapping_sub(SPLITTING + HUGE), Release);
            debug_assert!(huge_mappings(before) > 0, "a huge mapping is split that never came");
        }
    }

    /// Waits for the split that is under way, if there is one, and begins another.
    fn begin_split(&self) {
        let mut looked = 0;
        loop {
            // Acquire: pairs with the Release at the end of another split. Who reads what comes behind it, each a
            // Release, reads this too.
            let before = self.huge.fetch_or(SPLITTING, Acquire);
            if before & SPLITTING == 0 || planted::is(Bug::SplitWithoutLock) {
                return;
            }
            pause(&mut looked);
        }
    }

    /// Mappings of `page`, huge ones included.
    #[inline]
    pub(super) fn page(&self, page: usize) -> u32 {
        // Acquire, here and in the two below: if it reads what a split or a later change wrote, the second look at the
        // word sees that too.
        self.read(|| self.pages.get().map_or(0, |pages| pages.of(page).load(Acquire)))
    }

    /// Mappings, a huge one counted once.
    #[inline]
    pub(super) fn total(&self) -> u32 {
        self.read(|| self.sum.load(Acquire))
    }

    /// The largest number of mappings that a page has.
    pub(super) fn largest(&self) -> u32 {
        self.read(|| {
            if self.sum.load(Acquire) == 0 {
                return 0;
            }
            self.pages.get().map_or(0, Pages::largest)
        })
    }

    /// The number of huge mappings plus what `of_pages` finds, as they were at one time.
    #[inline]
    fn read(&self, of_pages: impl Fn() -> u32) -> u32 {
        let mut looked = 0;
        loop {
            // Acquire: pairs with every Release addition to the word; the pages are at least as new.
            let before = self.huge.load(Acquire);
            if before & SPLITTING == 0 {
                let of_pages = of_pages();
                // Relaxed: the Acquire loads of the pages keep it behind them.
                if self.huge.load(Relaxed) == before || planted::is(Bug::ReadOnce) {
                    return huge_mappings(before) + of_pages;
                }
            }
            pause(&mut looked);
        }
    }

    /// Bytes made for it beside its own so far.
    pub(super) fn bytes_beside(&self) -> usize {
        self.pages.get().map_or(0, size_of_val)
    }

    fn pages(&self) -> &Pages {
        self.pages.get_or_init(|| Box::new(Pages(std::array::from_fn(|_| AtomicU32::new(0)))))
    }
}

impl Pages {
    /// Indices beyond a block are a caller's mistake and wrap.
    #[inline]
    fn of(&self, page: usize) -> &AtomicU32 {
        debug_assert!(page < PAGES, "a block has {PAGES} pages");
        &self.0[page & (PAGES - 1)]
    }

    fn largest(&self) -> u32 {
        // Several at a time, so that one comparison does not wait for another.
        let mut lanes = [0; if PAGES < 4 { PAGES } else { 4 }];
        for pages in self.0.chunks_exact(lanes.len()) {
            for (lane, page) in lanes.iter_mut().zip(pages) {
                *lane = page.load(Acquire).max(*lane);
            }
        }
        lanes.into_iter().max().unwrap_or(0)
    }
}

fn step() -> u64 {
    if planted::is(Bug::HugeKeepsSequence) { 0 } else { STEP }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half of the word")]
fn huge_mappings(word: u64) -> u32 {
    word as u32
}

/// Waits a moment; after `SPINS` of them other threads may run.
#[cold]
fn pause(looked: &mut u32) {
    *looked += 1;
    if *looked < SPINS { hint::spin_loop() } else { thread::yield_now() }
}
