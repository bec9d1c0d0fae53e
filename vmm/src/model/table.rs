//! The table: four levels of 512 entries, whose tables are numbered as a processor's are by their frames.
//!
//! Nothing here locks. Whoever changes what is mapped has the table to itself (`&mut`); whoever walks shares it and only
//! marks entries as accessed and dirty.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the casts are of places below 512 and of numbers of tables: 2^32 of them would be 16 TiB"
)]

use mmu_notifier::AddressRange;

use super::entry::{Cell, ENTRIES, Entry, Leaf, Level};
use crate::report::Mapped;

/// The root's number.
const ROOT: u32 = 0;

/// Translations of guest-physical addresses below 2^48.
#[derive(Debug)]
pub(super) struct Table {
    /// By number. Those that are empty, but for the root, are free.
    tables: Vec<Box<Page>>,
    free: Vec<u32>,
    mapped: Mapped,
}

/// The entries of one table.
#[derive(Debug)]
struct Page {
    cells: [Cell; ENTRIES],
    /// How many of them are not none.
    used: usize,
}

impl Page {
    fn boxed() -> Box<Self> {
        Box::new(Self { cells: std::array::from_fn(|_| Cell::default()), used: 0 })
    }
}

impl Table {
    /// Bits of an address that four levels translate.
    pub(super) const ADDRESS_BITS: u32 = 48;

    pub(super) fn new() -> Self {
        Self { tables: vec![Page::boxed()], free: Vec::new(), mapped: Mapped::default() }
    }

    /// How many leaves of each size there are.
    pub(super) const fn mapped(&self) -> Mapped {
        self.mapped
    }

    /// Tables that are in use, each of 4 KiB.
    pub(super) fn tables(&self) -> usize {
        self.tables.len() - self.free.len()
    }

    /// The translation of `address`, if there is one. Marks nothing.
    pub(super) fn find(&self, address: u64) -> Option<Leaf> {
        let (cell, level) = self.lowest(address, |_| {});
        cell.get().as_leaf(level)
    }

    /// Walks to `address` for an access, and marks each entry on the way as accessed, the leaf of a write as dirty. `None`
    /// is a fault: nothing is there, or it forbids the write.
    pub(super) fn walk(&self, address: u64, write: bool) -> Option<Leaf> {
        let (cell, level) = self.lowest(address, |cell| cell.mark(cell.get(), false));
        let entry = cell.get();
        let leaf = entry.as_leaf(level).filter(|leaf| leaf.writable || !write)?;
        cell.mark(entry, write);
        Some(leaf)
    }

    /// Has `leaf` translate the range around `address` that it is large enough for, instead of whatever was there.
    pub(super) fn install(&mut self, address: u64, leaf: &Leaf) {
        let (mut number, mut level) = (ROOT, Level::Root);
        while level != leaf.level {
            let Some(below) = level.below() else { return };
            number = self.table_below(number, level.index(address), level);
            level = below;
        }
        let index = level.index(address);
        self.remove(number, index, level);
        self.set(number, index, Entry::leaf(leaf));
        self.count(level, 1);
    }

    /// Drops every leaf that translates anything of `range`.
    pub(super) fn drop_range(&mut self, range: AddressRange) {
        self.drop_below(ROOT, Level::Root, 0, range);
    }

    /// Drops all.
    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }

    /// Calls `visit` with every leaf that translates anything of `range`, in order of address, until it says no.
    pub(super) fn visit(&self, range: AddressRange, visit: &mut dyn FnMut(u64, &Cell, Leaf) -> bool) {
        self.visit_below(ROOT, Level::Root, 0, range, visit);
    }

    fn page(&self, number: u32) -> &Page {
        &self.tables[number as usize]
    }

    /// The lowest entry that there is for `address`. Calls `passed` with those that point to it.
    fn lowest(&self, address: u64, passed: impl Fn(&Cell)) -> (&Cell, Level) {
        let (mut number, mut level) = (ROOT, Level::Root);
        loop {
            let cell = &self.page(number).cells[level.index(address)];
            match (cell.get().as_table(), level.below()) {
                (Some(next), Some(below)) => {
                    passed(cell);
                    (number, level) = (next, below);
                }
                _ => return (cell, level),
            }
        }
    }

    /// The table behind entry `index` of the table `number`, which is of `level`; made if there is none.
    fn table_below(&mut self, number: u32, index: usize, level: Level) -> u32 {
        if let Some(next) = self.page(number).cells[index].get().as_table() {
            return next;
        }
        self.remove(number, index, level);
        let next = self.free.pop().unwrap_or_else(|| {
            self.tables.push(Page::boxed());
            (self.tables.len() - 1) as u32
        });
        self.set(number, index, Entry::table(next));
        next
    }

    /// Writes an entry where there is none.
    fn set(&mut self, number: u32, index: usize, entry: Entry) {
        let page = &mut self.tables[number as usize];
        page.cells[index].set(entry);
        page.used += 1;
    }

    /// Removes entry `index` of the table `number`, which is of `level`, and all below it.
    fn remove(&mut self, number: u32, index: usize, level: Level) {
        let entry = self.page(number).cells[index].get();
        if let (Some(table), Some(below)) = (entry.as_table(), level.below()) {
            for index in 0..ENTRIES {
                self.remove(table, index, below);
            }
            self.free.push(table);
        } else if entry.as_leaf(level).is_some() {
            self.count(level, -1);
        }
        if !entry.is_none() {
            let page = &mut self.tables[number as usize];
            page.cells[index].set(Entry::NONE);
            page.used -= 1;
        }
    }

    fn drop_below(&mut self, number: u32, level: Level, start: u64, range: AddressRange) {
        for (index, start) in part(level, start, range) {
            let entry = self.page(number).cells[index].get();
            let whole = range.start() <= start && start + level.bytes() <= range.end();
            if let (Some(table), Some(below), false) = (entry.as_table(), level.below(), whole) {
                self.drop_below(table, below, start, range);
                if self.page(table).used > 0 {
                    continue;
                }
            }
            self.remove(number, index, level);
        }
    }

    fn visit_below(
        &self,
        number: u32,
        level: Level,
        start: u64,
        range: AddressRange,
        visit: &mut dyn FnMut(u64, &Cell, Leaf) -> bool,
    ) -> bool {
        part(level, start, range).all(|(index, start)| {
            let cell = &self.page(number).cells[index];
            match (cell.get().as_table(), level.below()) {
                (Some(table), Some(below)) => self.visit_below(table, below, start, range, visit),
                _ => cell.get().as_leaf(level).is_none_or(|leaf| visit(start, cell, leaf)),
            }
        })
    }

    fn count(&mut self, level: Level, by: i64) {
        let count = match level {
            Level::K4 => &mut self.mapped.pages_4k,
            Level::M2 => &mut self.mapped.pages_2m,
            Level::G1 | Level::Root => &mut self.mapped.pages_1g,
        };
        *count = count.wrapping_add_signed(by);
    }
}

/// The entries that translate anything of `range` in a table of `level` whose first entry maps the range from `start` on: their
/// places, and where what they map begins.
fn part(level: Level, start: u64, range: AddressRange) -> impl Iterator<Item = (usize, u64)> {
    let first = range.start().saturating_sub(start) / level.bytes();
    let end = range.end().saturating_sub(start).div_ceil(level.bytes()).min(ENTRIES as u64);
    (first..end).map(move |index| (index as usize, start + index * level.bytes()))
}

#[cfg(test)]
mod tests;
