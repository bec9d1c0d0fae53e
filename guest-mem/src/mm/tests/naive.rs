//! The naive memory manager: every page one by one, and what is asked for there.

use std::{collections::BTreeSet, sync::Arc};

use mmu_notifier::{AddressRange, PAGE_SIZE};

use super::{BASE, gfn};
use crate::{
    BLOCK_PAGES, Gfn, PageSize,
    frame::PAGES,
    vma::{HugePolicy, VmaChange, VmaFlags},
};

/// A page as far as it is mapped: for a huge one, all 512 are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) size: PageSize,
    pub(super) write: bool,
    pub(super) wp: bool,
    pub(super) dirty: bool,
    /// What it holds. Not part of the entry.
    pub(super) stamp: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) flags: VmaFlags,
    pub(super) name: Option<Arc<str>>,
    pub(super) charged: bool,
    pub(super) mapped: Option<Mapped>,
    /// Discarded since its huge page was last whole.
    pub(super) discarded: bool,
    /// Not what it was when dirty pages were last collected, as it was discarded.
    pub(super) changed: bool,
}

/// What a discard of the naive manager's did, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Discarded {
    pub(super) zeroed: u64,
    pub(super) pinned: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Naive {
    pub(super) pages: Vec<Page>,
    pub(super) filled: bool,
    pub(super) limit: u64,
}

impl Naive {
    pub(super) fn new(count: u64, flags: VmaFlags, filled: bool, limit: u64) -> Self {
        let page = Page {
            flags,
            name: None,
            charged: flags.writable,
            mapped: None,
            discarded: false,
            changed: false,
        };
        Self { pages: vec![page; usize::try_from(count).unwrap()], filled, limit }
    }

    pub(super) fn count(&self) -> u64 {
        self.pages.len() as u64
    }

    pub(super) fn page(&self, page: u64) -> &Page {
        &self.pages[usize::try_from(page).unwrap()]
    }

    fn page_mut(&mut self, page: u64) -> &mut Page {
        &mut self.pages[usize::try_from(page).unwrap()]
    }

    /// The pages of `range`, by number.
    pub(super) fn of(range: AddressRange) -> std::ops::Range<u64> {
        (range.start() - BASE) / PAGE_SIZE..(range.end() - BASE) / PAGE_SIZE
    }

    /// The pages of the 2 MiB range of `page` that there are.
    fn block(&self, page: u64) -> std::ops::Range<u64> {
        let start = page / BLOCK_PAGES * BLOCK_PAGES;
        start..(start + BLOCK_PAGES).min(self.count())
    }

    fn asks_for_the_same(&self, page: u64, other: u64) -> bool {
        let (page, other) = (self.page(page), self.page(other));
        page.flags == other.flags && page.name == other.name
    }

    /// Whether `page` may be mapped huge, as far as what is asked for goes.
    fn may_be_huge(&self, page: u64) -> bool {
        let block = self.block(page);
        self.page(page).flags.huge == HugePolicy::Always
            && block.end - block.start == BLOCK_PAGES
            && block.into_iter().all(|other| self.asks_for_the_same(page, other))
    }

    fn is_huge(&self, page: u64) -> bool {
        self.page(page).mapped.is_some_and(|mapped| mapped.size == PageSize::Huge)
    }

    /// The pages that are mapped by the entry of `page`.
    fn entry(&self, page: u64) -> std::ops::Range<u64> {
        if self.is_huge(page) { self.block(page) } else { page..page + 1 }
    }

    fn change(&mut self, page: u64, change: impl Fn(&mut Mapped)) {
        for page in self.entry(page) {
            if let Some(mapped) = &mut self.page_mut(page).mapped {
                change(mapped);
            }
        }
    }

    /// What `page` holds when it is mapped first.
    fn fresh(&self, page: u64) -> u64 {
        if self.filled { page + 1 } else { 0 }
    }

    /// Maps `page` with what it needs, and no neighbours.
    pub(super) fn map(&mut self, page: u64) {
        if self.page(page).mapped.is_some() {
            return;
        }
        let empty = self.block(page).all(|page| self.page(page).mapped.is_none());
        let size = if self.may_be_huge(page) && empty { PageSize::Huge } else { PageSize::Base };
        let flags = self.page(page).flags;
        let pages = if size == PageSize::Huge { self.block(page) } else { page..page + 1 };
        for page in pages {
            let stamp = self.fresh(page);
            self.page_mut(page).mapped =
                Some(Mapped { size, write: flags.writable, wp: flags.dirty_tracked, dirty: false, stamp });
        }
    }

    /// Neighbours of `page` that were mapped with it are in `mapped`; whether each could be.
    pub(super) fn absorb(&mut self, page: u64, mapped: impl Fn(u64) -> bool) -> bool {
        (0..self.count()).all(|other| {
            if self.page(other).mapped.is_some() || !mapped(other) {
                return true;
            }
            let ok = self.asks_for_the_same(page, other);
            self.map(other);
            ok
        })
    }

    /// A write to `page`, which is mapped: whether it is let through.
    pub(super) fn write(&mut self, page: u64, stamp: u64) -> bool {
        let Some(mapped) = self.page(page).mapped else { return false };
        if !mapped.write || mapped.wp {
            if !self.page(page).flags.writable {
                return false;
            }
            self.change(page, |mapped| (mapped.write, mapped.wp, mapped.dirty) = (true, false, true));
        }
        if let Some(mapped) = &mut self.page_mut(page).mapped {
            mapped.stamp = stamp;
        }
        true
    }

    pub(super) fn discard(&mut self, range: AddressRange, is_pinned: impl Fn(u64) -> bool) -> Discarded {
        let mut discarded = Discarded::default();
        let all = Self::of(range);
        for page in all.clone() {
            let entry = self.entry(page);
            let part = entry.start < all.start || all.end < entry.end;
            if self.page(page).mapped.is_none() {
                continue;
            }
            let pinned = entry.clone().any(&is_pinned);
            let page_of = self.page_mut(page);
            page_of.changed |= page_of.flags.dirty_tracked && !pinned;
            if pinned {
                discarded.pinned += PAGE_SIZE;
            } else if part {
                discarded.zeroed += PAGE_SIZE;
                self.page_mut(page).discarded = true;
                if let Some(mapped) = &mut self.page_mut(page).mapped {
                    mapped.stamp = 0;
                }
            } else {
                self.page_mut(page).discarded = false;
                self.page_mut(page).mapped = None;
            }
        }
        for start in (0..self.count()).step_by(PAGES) {
            self.free_if_discarded(start);
        }
        discarded
    }

    /// Frees a huge page of which each part was discarded, if it is zeros.
    fn free_if_discarded(&mut self, start: u64) {
        if !self.is_huge(start) || !self.block(start).all(|page| self.page(page).discarded) {
            return;
        }
        let zero =
            self.block(start).all(|page| self.page(page).mapped.is_some_and(|mapped| mapped.stamp == 0));
        for page in self.block(start) {
            let page = self.page_mut(page);
            page.discarded = false;
            if zero {
                page.changed |= page.flags.dirty_tracked;
                page.mapped = None;
            }
        }
    }

    /// Whether `change` is let through: no end of the range lies where a huge page is or may come, and the limit holds.
    pub(super) fn allows(&self, range: AddressRange, change: &VmaChange) -> bool {
        let all = Self::of(range);
        let in_huge = |page: u64| {
            !page.is_multiple_of(BLOCK_PAGES)
                && page < self.count()
                && (self.may_be_huge(page) || self.is_huge(page))
        };
        let charged = self.charged() + all.clone().filter(|page| !self.page(*page).charged).count() as u64;
        !in_huge(all.start)
            && !in_huge(all.end)
            && (*change != VmaChange::Writable(true) || charged <= self.limit)
    }

    pub(super) fn charged(&self) -> u64 {
        self.pages.iter().filter(|page| page.charged).count() as u64
    }

    pub(super) fn modify(
        &mut self,
        range: AddressRange,
        change: &VmaChange,
        is_pinned: impl Fn(u64) -> bool,
    ) {
        for page in Self::of(range) {
            let pinned = self.entry(page).any(&is_pinned);
            let page = self.page_mut(page);
            match change {
                VmaChange::Writable(true) => page.charged = true,
                VmaChange::Writable(false) if page.flags.writable => page.charged = page.mapped.is_some(),
                _ => {}
            }
            if let Some(mapped) = &mut page.mapped {
                match change {
                    VmaChange::Writable(on) => mapped.write = *on,
                    VmaChange::DirtyTracked(true) => (mapped.wp, mapped.dirty) = (true, pinned),
                    VmaChange::DirtyTracked(false) => mapped.wp = false,
                    _ => {}
                }
            }
            match change {
                VmaChange::Writable(on) => page.flags.writable = *on,
                VmaChange::DirtyTracked(on) => (page.flags.dirty_tracked, page.changed) = (*on, false),
                VmaChange::Mergeable(on) => page.flags.mergeable = *on,
                VmaChange::Huge(policy) => page.flags.huge = *policy,
                VmaChange::Name(name) => page.name.clone_from(name),
            }
        }
    }

    pub(super) fn dirty(
        &mut self,
        range: AddressRange,
        clear: bool,
        is_pinned: impl Fn(u64) -> bool,
    ) -> Vec<Gfn> {
        let dirty = |naive: &Self, page: u64| naive.page(page).mapped.is_some_and(|mapped| mapped.dirty);
        let mut found: BTreeSet<u64> =
            Self::of(range).filter(|page| dirty(self, *page)).flat_map(|page| self.entry(page)).collect();
        if clear {
            for page in &found {
                let pinned = self.entry(*page).any(&is_pinned);
                self.change(*page, |mapped| (mapped.wp, mapped.dirty) = (true, pinned));
            }
        }
        for page in Self::of(range).filter(|page| self.page(*page).changed).collect::<Vec<_>>() {
            found.insert(page);
            self.page_mut(page).changed = !clear;
        }
        found.into_iter().map(gfn).collect()
    }

    /// Marks what a pin marks; the first page that cannot be pinned, if one cannot.
    pub(super) fn pin(&mut self, range: AddressRange, write: bool) -> Option<Gfn> {
        for page in Self::of(range) {
            match self.page(page).mapped {
                Some(mapped) if !write || mapped.write && !mapped.wp => {
                    self.change(page, |mapped| mapped.dirty |= write);
                }
                _ => return Some(gfn(page)),
            }
        }
        None
    }
}
