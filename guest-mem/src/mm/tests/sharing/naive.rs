//! The naive memory: every page one by one, and how each address space maps it.

use std::{collections::BTreeSet, ops::Range};

use mmu_notifier::{AddressRange, PAGE_SIZE};

use crate::{BLOCK_PAGES, Gfn, PageSize};

use super::{BASE, gfn};

/// A page that has its content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cached {
    /// Of its folio.
    pub(super) size: PageSize,
    pub(super) stamp: u64,
    /// Removed since its huge page was last whole.
    pub(super) removed: bool,
}

/// An entry, or for a huge one a 512th of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) size: PageSize,
    pub(super) wp: bool,
    pub(super) dirty: bool,
}

/// What an address space asks for, and what it maps.
#[derive(Clone, Debug)]
pub(super) struct Space {
    pub(super) huge: bool,
    pub(super) tracked: bool,
    pub(super) pages: Vec<Option<Mapped>>,
    /// Pages whose change is not to be seen by their entries any more.
    pub(super) changed: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Naive {
    pub(super) cached: Vec<Option<Cached>>,
    pub(super) spaces: [Space; 2],
}

/// What a removal did, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Removed {
    pub(super) zeroed: u64,
    pub(super) pinned: u64,
}

fn at(page: u64) -> usize {
    usize::try_from(page).unwrap()
}

impl Space {
    pub(super) fn new(count: u64, huge: bool, tracked: bool) -> Self {
        Self { huge, tracked, pages: vec![None; at(count)], changed: BTreeSet::new() }
    }

    pub(super) fn page(&self, page: u64) -> Option<Mapped> {
        self.pages[at(page)]
    }

    /// The pages that the entry of `page` maps.
    fn entry(&self, page: u64) -> Range<u64> {
        let huge = self.page(page).is_some_and(|mapped| mapped.size == PageSize::Huge);
        let block = page / BLOCK_PAGES * BLOCK_PAGES;
        if huge { block..block + BLOCK_PAGES } else { page..page + 1 }
    }

    fn change(&mut self, page: u64, change: impl Fn(&mut Mapped)) {
        for page in self.entry(page) {
            self.pages[at(page)].as_mut().map(&change);
        }
    }

    /// Takes the entry of `page` away, if there is one.
    fn unmap(&mut self, page: u64) {
        let entry = self.entry(page);
        if self.page(page).is_some_and(|mapped| mapped.dirty && self.tracked) {
            self.changed.extend(entry.clone());
        }
        self.pages[at(entry.start)..at(entry.end)].fill(None);
    }

    /// Takes the entries of `range` away.
    pub(super) fn dont_need(&mut self, range: AddressRange) {
        Naive::of(range).for_each(|page| self.unmap(page));
    }

    /// What the manager says is dirty.
    pub(super) fn dirty(
        &mut self,
        range: AddressRange,
        clear: bool,
        is_pinned: impl Fn(u64) -> bool,
    ) -> Vec<Gfn> {
        let all = Naive::of(range);
        let dirty = all.clone().filter(|page| self.page(*page).is_some_and(|mapped| mapped.dirty));
        let mut found: BTreeSet<u64> = dirty.flat_map(|page| self.entry(page)).collect();
        if clear {
            for page in &found {
                let pinned = is_pinned(*page);
                self.change(*page, |mapped| (mapped.wp, mapped.dirty) = (true, pinned));
            }
        }
        found.extend(self.changed.range(all.clone()));
        if clear {
            self.changed.retain(|page| !all.contains(page));
        }
        found.into_iter().map(gfn).collect()
    }

    /// Marks what a pin marks; the first page that cannot be pinned, if one cannot.
    pub(super) fn pin(&mut self, range: AddressRange, write: bool) -> Option<Gfn> {
        for page in Naive::of(range) {
            match self.page(page) {
                Some(mapped) if !write || !mapped.wp => self.change(page, |mapped| mapped.dirty |= write),
                _ => return Some(gfn(page)),
            }
        }
        None
    }
}

impl Naive {
    pub(super) fn new(count: u64, spaces: [Space; 2]) -> Self {
        Self { cached: vec![None; at(count)], spaces }
    }

    fn count(&self) -> u64 {
        self.cached.len() as u64
    }

    pub(super) fn page(&self, page: u64) -> Option<Cached> {
        self.cached[at(page)]
    }

    /// The pages of `range`, by number.
    pub(super) fn of(range: AddressRange) -> Range<u64> {
        (range.start() - BASE) / PAGE_SIZE..(range.end() - BASE) / PAGE_SIZE
    }

    fn block(&self, page: u64) -> Range<u64> {
        let start = page / BLOCK_PAGES * BLOCK_PAGES;
        start..(start + BLOCK_PAGES).min(self.count())
    }

    /// The pages of the folio of `page`, which is cached.
    pub(super) fn folio(&self, page: u64) -> Range<u64> {
        match self.page(page).map(|cached| cached.size) {
            Some(PageSize::Huge) => self.block(page),
            _ => page..page + 1,
        }
    }

    /// Maps `page` in `space`, with what it needs.
    pub(super) fn map(&mut self, space: usize, page: u64) {
        if self.spaces[space].page(page).is_some() {
            return;
        }
        let block = self.block(page);
        let empty = block.clone().all(|page| self.spaces[space].page(page).is_none());
        let whole = block.end - block.start == BLOCK_PAGES;
        let all_huge =
            block.clone().filter_map(|page| self.page(page)).all(|cached| cached.size == PageSize::Huge);
        let huge = self.spaces[space].huge && empty && whole && all_huge;
        let (size, pages) = if huge { (PageSize::Huge, block) } else { (PageSize::Base, page..page + 1) };
        let mapped = Mapped { size, wp: self.spaces[space].tracked, dirty: false };
        for page in pages {
            self.cached[at(page)].get_or_insert(Cached { size, stamp: 0, removed: false });
            self.spaces[space].pages[at(page)] = Some(mapped);
        }
    }

    /// A write to `page` through `space`, which maps it.
    pub(super) fn write(&mut self, space: usize, page: u64, stamp: u64) {
        if self.spaces[space].page(page).is_some_and(|mapped| mapped.wp) {
            self.spaces[space].change(page, |mapped| (mapped.wp, mapped.dirty) = (false, true));
        }
        if let Some(cached) = &mut self.cached[at(page)] {
            cached.stamp = stamp;
        }
    }

    fn unmap_from_all(&mut self, pages: Range<u64>) {
        for space in &mut self.spaces {
            pages.clone().for_each(|page| space.unmap(page));
        }
    }

    fn free(&mut self, folio: Range<u64>) {
        self.cached[at(folio.start)..at(folio.end)].fill(None);
    }

    /// Removes `range` from both.
    pub(super) fn remove(&mut self, range: AddressRange, is_pinned: impl Fn(u64) -> bool) -> Removed {
        let mut removed = Removed::default();
        let all = Self::of(range);
        let mut next = all.start;
        while next < all.end {
            let folio = self.folio(next);
            let part = next..folio.end.min(all.end);
            next = part.end;
            if self.page(part.start).is_none() {
                continue;
            }
            self.unmap_from_all(folio.clone());
            let bytes = (part.end - part.start) * PAGE_SIZE;
            if folio.clone().any(&is_pinned) {
                removed.pinned += bytes;
                continue;
            }
            for space in self.spaces.iter_mut().filter(|space| space.tracked) {
                space.changed.extend(part.clone());
            }
            if part == folio {
                self.free(folio);
                continue;
            }
            removed.zeroed += bytes;
            for page in part {
                if let Some(cached) = &mut self.cached[at(page)] {
                    (cached.stamp, cached.removed) = (0, true);
                }
            }
            self.free_if_removed(folio);
        }
        removed
    }

    /// Frees a huge page of which each part was removed, if it is zeros.
    fn free_if_removed(&mut self, folio: Range<u64>) {
        let all = |naive: &Self, test: fn(&Cached) -> bool| {
            naive.cached[at(folio.start)..at(folio.end)].iter().flatten().all(test)
        };
        if !all(self, |cached| cached.removed) {
            return;
        }
        if all(self, |cached| cached.stamp == 0) {
            return self.free(folio);
        }
        for cached in self.cached[at(folio.start)..at(folio.end)].iter_mut().flatten() {
            cached.removed = false;
        }
    }

    /// Takes the folios away that nobody would miss; how many bytes.
    pub(super) fn shrink(&mut self, is_pinned: impl Fn(u64) -> bool) -> u64 {
        let mut freed = 0;
        let mut next = 0;
        while next < self.count() {
            let folio = self.folio(next);
            next = folio.end;
            let zero = folio.clone().all(|page| self.page(page).is_some_and(|cached| cached.stamp == 0));
            let uncollected =
                self.spaces.iter().filter(|space| space.tracked).any(|space| {
                    folio.clone().any(|page| space.page(page).is_some_and(|mapped| mapped.dirty))
                });
            if zero && !uncollected && !folio.clone().any(&is_pinned) {
                self.unmap_from_all(folio.clone());
                freed += (folio.end - folio.start) * PAGE_SIZE;
                self.free(folio);
            }
        }
        freed
    }
}
