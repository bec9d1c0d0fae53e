//! What the guest is to see, page by page: what was asked for, and the content.

use guest_mem::{
    BLOCK_PAGES,
    vma::{HugePolicy, VmaChange},
};

use crate::space::PAGES;

/// What there is to know of a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    /// The stamp of the last write; 0 for zeros.
    pub(crate) content: u64,
    pub(crate) writable: bool,
    pub(crate) tracked: bool,
    /// Written by the guest or promised to a device for writing, since writes are tracked or since that was last
    /// collected.
    pub(crate) written: bool,
}

/// All pages of the RAM.
#[derive(Debug)]
pub(crate) struct Naive(Vec<Page>);

impl Naive {
    pub(crate) fn new() -> Self {
        let page = Page { content: 0, writable: true, tracked: false, written: false };
        Self(vec![page; usize::try_from(PAGES).unwrap()])
    }

    pub(crate) fn page(&mut self, page: u64) -> &mut Page {
        &mut self.0[usize::try_from(page).unwrap()]
    }

    pub(crate) fn write(&mut self, page: u64, stamp: u64) {
        let page = self.page(page);
        page.content = stamp;
        page.written = true;
    }

    pub(crate) fn change(&mut self, pages: impl Iterator<Item = u64>, change: &VmaChange) {
        for page in pages {
            let page = self.page(page);
            match change {
                VmaChange::Writable(on) => page.writable = *on,
                VmaChange::DirtyTracked(on) => {
                    page.tracked = *on;
                    page.written = false;
                }
                VmaChange::Huge(HugePolicy::Always | HugePolicy::Never)
                | VmaChange::Mergeable(_)
                | VmaChange::Name(_) => {}
            }
        }
    }
}

/// The block of 2 MiB that `page` lies in, as the pages of it that there are.
pub(crate) fn block_of(page: u64) -> std::ops::Range<u64> {
    let start = page / BLOCK_PAGES * BLOCK_PAGES;
    start..(start + BLOCK_PAGES).min(PAGES)
}
