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

/// What of its pages a [`Taken`] has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// The frames.
    Frames,
    /// A reference to the folio, which others may have too, for each entry of this size.
    References(PageSize),
}

/// The frames of pages in a row of one 2 MiB range, which are this thread's, or the references to them that entries will
/// own, where memory is shared. Dropped, also by a panic, it gives those back that were not entered. What the host may map
/// of them stays taken: the guest may have written it.
#[must_use = "dropping it gives the frames back"]
pub(super) struct Taken<'m> {
    mm: &'m Mm,
    /// What is not entered yet; may be empty.
    pages: Range<Gfn>,
    what: What,
    /// How many of them, from the first on, the host may map.
    shown: u64,
}

impl<'m> Taken<'m> {
    /// The frames of `pages`, which the caller has taken and the host does not map.
    pub(super) const fn of(mm: &'m Mm, pages: Range<Gfn>) -> Self {
        Self { mm, pages, what: What::Frames, shown: 0 }
    }

    /// What was stuck of `pages`: the caller's, and the host may map all.
    pub(super) fn shown(mm: &'m Mm, pages: Range<Gfn>) -> Self {
        let shown = pages.end.get() - pages.start.get();
        Self { mm, pages, what: What::of(mm, PageSize::Base), shown }
    }

    /// Takes frames that are zeros for `pages`, which are to be mapped by entries of `size`, or where memory is shared
    /// references to what others have there.
    pub(super) fn zeroed(mm: &'m Mm, pages: Range<Gfn>, size: PageSize) -> Result<Self, TakeError> {
        mm.object.acquire(mm.frames(&pages), size)?;
        Ok(Self { mm, pages, what: What::of(mm, size), shown: 0 })
    }

    /// Lets others have the frames, which hold what guests shall see, if memory is shared: to be mapped here by entries of
    /// `size`.
    pub(super) fn publish(&mut self, size: PageSize) {
        if self.mm.object.is_shared() {
            self.mm.object.insert(&self.mm.frames(&self.pages), size);
            self.what = What::References(size);
        }
    }

    /// Entries of `size` will map the pages. What was acquired for a huge one, and not for so many base ones, or the
    /// reverse, is now.
    pub(super) fn resize(&mut self, size: PageSize) {
        if let What::References(acquired) = self.what
            && acquired != size
        {
            self.mm.object.change_size(&self.mm.frames(&self.pages), size);
            self.what = What::References(size);
        }
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
            // It may be entered, or freed, in parts.
            self.resize(PageSize::Base);
            self.mm.stuck.push(shown);
        }
        if free.is_empty() {
            return;
        }
        let frames = self.mm.frames(&free);
        match self.what {
            What::Frames => self.mm.object.give_back(&frames),
            What::References(size) => self.mm.object.release(&frames, size),
        }
    }
}

impl What {
    /// What is had of pages that are to be mapped by entries of `size`.
    fn of(mm: &Mm, size: PageSize) -> Self {
        if mm.object.is_shared() { Self::References(size) } else { Self::Frames }
    }
}
