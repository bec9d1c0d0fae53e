//! Frames between the pool and the page table: taken, and not entered yet.
//!
//! ```text
//! pool: free ------> Taken ------> an entry's
//!         ^           |   \
//!         |           |    `-----> stuck: the host may map them, so the guest may have written them
//!         `-----------' dropped, by a panic too
//! ```

use std::ops::Range;

use super::Mm;
use crate::{Gfn, PageSize, pool::TakeError};

/// The frames of pages in a row of one 2 MiB range, which are this thread's. Dropped, also by a panic, it gives those
/// back that were not entered. What the host may map of them stays taken: the guest may have written it.
#[must_use = "dropping it gives the frames back"]
pub(super) struct Taken<'m> {
    mm: &'m Mm,
    /// What is not entered yet; may be empty.
    pages: Range<Gfn>,
    /// How many of them, from the first on, the host may map.
    shown: u64,
}

impl<'m> Taken<'m> {
    /// The frames of `pages`, which the caller has taken and the host does not map.
    pub(super) const fn of(mm: &'m Mm, pages: Range<Gfn>) -> Self {
        Self { mm, pages, shown: 0 }
    }

    /// The frames of `pages`, which the caller has taken and of which the host may map all.
    pub(super) const fn shown(mm: &'m Mm, pages: Range<Gfn>) -> Self {
        let shown = pages.end.get() - pages.start.get();
        Self { mm, pages, shown }
    }

    /// Takes frames that are zeros for `pages`, which are to be mapped by entries of `size`.
    pub(super) fn zeroed(mm: &'m Mm, pages: Range<Gfn>, size: PageSize) -> Result<Self, TakeError> {
        let frames = mm.frames(&pages);
        match size {
            PageSize::Base => mm.pool().take_zeroed(frames),
            PageSize::Huge => mm.pool().take_huge_zeroed(frames),
        }
        .map(|_stocked| Self::of(mm, pages))
    }

    /// The pages that are not entered yet.
    pub(super) const fn pages(&self) -> &Range<Gfn> {
        &self.pages
    }

    /// The host may map the first `pages` of them, and no others.
    pub(super) const fn show(&mut self, pages: u64) {
        self.shown = pages;
    }

    /// The first `pages` of them are entered: their frames are the entries'.
    pub(super) const fn entered(&mut self, pages: u64) {
        self.pages.start = self.pages.start.plus(pages);
        self.shown = self.shown.saturating_sub(pages);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let shown = self.pages.start..self.pages.start.plus(self.shown);
        let free = shown.end..self.pages.end;
        if !shown.is_empty() {
            self.mm.stuck.push(shown);
        }
        if !free.is_empty() {
            self.mm.give_back(&free);
        }
    }
}
