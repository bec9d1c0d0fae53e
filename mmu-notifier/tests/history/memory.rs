//! Memory as the naive model has it: each page's content bears the number of the translation that it was filled for.

use std::collections::{HashMap, HashSet};

use mmu_notifier::{AddressRange, PAGE_SIZE};

/// Pages of the address space.
pub(crate) const PAGES: u64 = 16;

/// Where a page leads: the number that its content bears. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Content(u64);

#[derive(Default)]
pub(crate) struct Memory {
    table: HashMap<u64, Content>,
    freed: HashSet<Content>,
    last: u64,
}

impl Memory {
    /// Where `page` leads; it is faulted in if it leads nowhere.
    pub(crate) fn translate(&mut self, page: u64) -> Content {
        let last = &mut self.last;
        *self.table.entry(page).or_insert_with(|| {
            *last += 1;
            Content(*last)
        })
    }

    /// Unmaps `range`. What was there is not free yet.
    pub(crate) fn clear(&mut self, range: AddressRange) -> Vec<Content> {
        let pages = range.start() / PAGE_SIZE..(range.end() / PAGE_SIZE).min(PAGES);
        pages.filter_map(|page| self.table.remove(&page)).collect()
    }

    pub(crate) fn free(&mut self, contents: Vec<Content>) {
        self.freed.extend(contents);
    }

    pub(crate) fn is_mapped(&self, page: u64, content: Content) -> bool {
        self.table.get(&page) == Some(&content)
    }

    pub(crate) fn is_freed(&self, content: Content) -> bool {
        self.freed.contains(&content)
    }
}
