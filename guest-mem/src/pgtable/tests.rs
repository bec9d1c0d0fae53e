//! The page table step by step, and against a map that has every page one by one.
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod naive;
mod pins;
mod steps;
mod threads;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use mmu_notifier::{AddressRange, PAGE_SIZE};

use super::{Entry, EntryFlags, Frames, PageTable};
use crate::frame::{BLOCK_PAGES, Gfn, PageSize, Pfn};

/// Counts of references by folio, and folios that are frozen.
#[derive(Debug, Default)]
struct Counts {
    held: Mutex<BTreeMap<Pfn, u64>>,
    frozen: BTreeSet<Pfn>,
}

/// One of the references of a [`Counts`].
#[derive(Debug)]
struct Counted<'a>(&'a Counts, Pfn);

impl<'a> Frames for &'a Counts {
    type Ref = Counted<'a>;

    fn try_get(self, pfn: Pfn, _: PageSize) -> Option<Counted<'a>> {
        if self.frozen.contains(&pfn) {
            return None;
        }
        *self.held.lock().unwrap().entry(pfn).or_default() += 1;
        Some(Counted(self, pfn))
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.1) {
            *count -= 1;
        }
        held.retain(|_, count| *count > 0);
    }
}

impl Counts {
    fn held(&self) -> BTreeMap<Pfn, u64> {
        self.held.lock().unwrap().clone()
    }
}

fn pages(start: u64, count: u64) -> AddressRange {
    AddressRange::new(start * PAGE_SIZE, count * PAGE_SIZE).unwrap()
}

/// Two 2 MiB ranges from the third on, with two pages before and three behind.
const FIRST: u64 = 3 * BLOCK_PAGES - 2;
const COUNT: u64 = 2 + 2 * BLOCK_PAGES + 3;

fn table() -> PageTable {
    PageTable::new(pages(FIRST, COUNT)).unwrap()
}

fn base(index: u64, flags: EntryFlags) -> Entry {
    Entry::new(Pfn::new(1, index), PageSize::Base, flags)
}

fn huge(block: u64, flags: EntryFlags) -> Entry {
    Entry::new(Pfn::new(1, block * BLOCK_PAGES), PageSize::Huge, flags)
}

fn gfn(number: u64) -> Gfn {
    Gfn::new(number)
}
