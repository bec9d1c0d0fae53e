//! Changing the entries of one 2 MiB range.

use mmu_notifier::AddressRange;

use super::{
    PageTable,
    directory::{Slot, Used},
    entry::{Entry, EntryCell, EntryFlags},
};
use crate::{
    frame::{BLOCK_SIZE, Gfn, PageSize},
    order::PtLockGuard,
    planted::{self, Bug},
};

/// Why an entry could not be set. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// Something is mapped there, or migrating: another thread was first.
    #[error("the page is mapped already ({entry:?}); look at it again, the fault may be resolved")]
    Occupied {
        /// What is there.
        entry: Entry,
    },
    /// A huge entry or a page table is wanted, and pages of the range are mapped by a page table.
    #[error("pages of the 2 MiB range are mapped one by one; map this page like them, or unmap them first")]
    TableExposed,
    /// A page is to be set, and no page table is exposed.
    #[error("no page table is exposed in the 2 MiB range; try a huge entry there, then call expose_table")]
    NoTable,
    /// A huge entry is wanted for a 2 MiB range that does not lie in the page table's range as a whole.
    #[error("the page table's range covers only a part of the 2 MiB range; map that part page by page")]
    PartOfBlock,
    /// The page lies outside the guard's 2 MiB range, or outside the page table's.
    #[error("guest page {gfn:#x} is not under this lock; take the lock of its own 2 MiB range", gfn = gfn.get())]
    NotUnderLock {
        /// The page.
        gfn: Gfn,
    },
    /// The entry is none, is of the other size, or is huge and its first frame is not aligned to 2 MiB.
    #[error("the entry ({entry:?}) cannot stand there; give a leaf of the right size and alignment")]
    WrongEntry {
        /// What was to be set.
        entry: Entry,
    },
}

/// What the entry of a 2 MiB range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Nothing is mapped.
    None,
    /// One entry of 2 MiB, present or migrating.
    Huge(Entry),
    /// A page table is exposed.
    Table,
}

/// The entries of one 2 MiB range are this thread's to change, until dropped.
///
/// Readers and their marks ([`YOUNG`](EntryFlags::YOUNG), [`DIRTY`](EntryFlags::DIRTY)) are not kept out. When the
/// guard is dropped and no page is left in an exposed page table, the table is withdrawn.
#[must_use = "the lock is released when the guard is dropped"]
#[derive(Debug)]
pub struct PtGuard<'a> {
    table: &'a PageTable,
    slot: &'a Slot,
    block: Gfn,
    used: PtLockGuard<'a, Used>,
    /// Entries that became present, wrapping; told to the page table at the end.
    base: u64,
    huge: u64,
}

impl<'a> PtGuard<'a> {
    pub(super) fn new(table: &'a PageTable, slot: &'a Slot, block: Gfn) -> Self {
        Self { table, slot, block, used: slot.lock.write(), base: 0, huge: 0 }
    }

    /// The first page of the 2 MiB range; it may lie outside the page table's range.
    #[must_use]
    pub const fn block(&self) -> Gfn {
        self.block
    }

    /// Whether the page table's range has the whole 2 MiB range, so that it may be mapped huge.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        AddressRange::new(self.block.address(), BLOCK_SIZE).is_ok_and(|block| self.table.range.covers(block))
    }

    /// What the entry of the 2 MiB range is.
    #[must_use]
    pub fn state(&self) -> SlotState {
        match self.slot.entry.load() {
            Entry::NONE => SlotState::None,
            Entry::TABLE => SlotState::Table,
            entry => SlotState::Huge(entry),
        }
    }

    /// The entry that maps `gfn`; none for a page that is not under this lock.
    #[must_use]
    pub fn entry(&self, gfn: Gfn) -> Entry {
        self.leaf(gfn).map_or(Entry::NONE, EntryCell::load)
    }

    /// The pages of `range` that are under this lock and mapped or migrating, in order. A huge entry comes once, with
    /// the first page of the 2 MiB range.
    pub fn entries(&self, range: AddressRange) -> impl Iterator<Item = (Gfn, Entry)> + '_ {
        let huge = match self.state() {
            SlotState::Huge(entry) => Some((self.block, entry)),
            _ => None,
        };
        let block = AddressRange::new(self.block.address(), BLOCK_SIZE).ok();
        let part = block.and_then(|block| block.intersection(range));
        let pages = part.filter(|_| self.state() == SlotState::Table).into_iter().flat_map(Gfn::all_of);
        let pages = pages.map(|gfn| (gfn, self.entry(gfn))).filter(|(_, entry)| !entry.is_none());
        huge.filter(|_| part.is_some()).into_iter().chain(pages)
    }

    /// Maps the whole range by the huge `entry`, where nothing is mapped.
    ///
    /// # Errors
    /// [`SetError`]; the caller keeps what `entry` was to own.
    pub fn set_huge(&mut self, entry: Entry) -> Result<(), SetError> {
        if !entry.is_huge() || entry.pfn().in_block() != 0 {
            return Err(SetError::WrongEntry { entry });
        }
        if !self.is_whole() {
            return Err(SetError::PartOfBlock);
        }
        if !planted::is(Bug::HugeOverTable) {
            self.check_empty()?;
        }
        self.slot.entry.set(entry);
        self.count(Entry::NONE, entry);
        Ok(())
    }

    /// Clears the huge entry and returns it with its last marks; none where there is no huge entry.
    pub fn clear_huge(&mut self) -> Entry {
        let SlotState::Huge(_) = self.state() else { return Entry::NONE };
        let old = self.slot.entry.swap(Entry::NONE);
        self.count(old, Entry::NONE);
        old
    }

    /// Exposes a page table where nothing is mapped, so that pages can be set. Does nothing if one is exposed already.
    ///
    /// # Errors
    /// [`SetError::Occupied`] by a huge entry: another thread mapped it, look again.
    pub fn expose_table(&mut self) -> Result<(), SetError> {
        match self.check_empty() {
            Err(SetError::TableExposed) => return Ok(()),
            Err(occupied) if !planted::is(Bug::ExposeOverHuge) => return Err(occupied),
            _ => {}
        }
        self.slot.pages();
        self.slot.entry.set(Entry::TABLE);
        Ok(())
    }

    /// Maps `gfn` by the base `entry`, where nothing is mapped and a page table is exposed.
    ///
    /// # Errors
    /// [`SetError`]; the caller keeps what `entry` was to own.
    pub fn set_page(&mut self, gfn: Gfn, entry: Entry) -> Result<(), SetError> {
        if entry.is_none() || entry.is_huge() {
            return Err(SetError::WrongEntry { entry });
        }
        let cell = self.leaf(gfn).ok_or(SetError::NotUnderLock { gfn })?;
        match cell.load() {
            Entry::NONE if self.state() == SlotState::Table => {}
            Entry::NONE => return Err(SetError::NoTable),
            entry => return Err(SetError::Occupied { entry }),
        }
        cell.set(entry);
        self.used.0 += 1;
        self.count(Entry::NONE, entry);
        Ok(())
    }

    /// Clears the base entry of `gfn` and returns it with its last marks; none where there is no base entry.
    pub fn clear_page(&mut self, gfn: Gfn) -> Entry {
        let Some(cell) = self.leaf(gfn).filter(|_| self.state() == SlotState::Table) else {
            return Entry::NONE;
        };
        let old = cell.swap(Entry::NONE);
        if !old.is_none() {
            self.used.0 -= 1;
            self.count(old, Entry::NONE);
        }
        old
    }

    /// Puts `entry` in the place of the entry that maps `gfn`, which has the same size, and returns that one with its
    /// last marks. No reader sees none in between.
    ///
    /// For migration, there and back, and for copies.
    ///
    /// # Errors
    /// [`SetError::WrongEntry`] when there is nothing to replace or the sizes differ;
    /// [`NotUnderLock`](SetError::NotUnderLock).
    pub fn replace(&mut self, gfn: Gfn, entry: Entry) -> Result<Entry, SetError> {
        let cell = self.leaf(gfn).ok_or(SetError::NotUnderLock { gfn })?;
        let old = cell.load();
        let misaligned = entry.is_huge() && entry.pfn().in_block() != 0;
        if old.is_none() || old.is_table() || entry.is_none() || old.size() != entry.size() || misaligned {
            return Err(SetError::WrongEntry { entry });
        }
        let old = cell.swap(entry);
        self.count(old, entry);
        Ok(old)
    }

    /// Sets and clears flags of the entry that maps `gfn`, in one step, and returns what it was; none, and nothing is
    /// done, where nothing is mapped.
    pub fn update(&mut self, gfn: Gfn, set: EntryFlags, clear: EntryFlags) -> Entry {
        match self.leaf(gfn) {
            Some(cell) if !cell.load().is_none() => {
                let fixed = EntryFlags::LARGE;
                cell.update(set.without(fixed), clear.without(fixed))
            }
            _ => Entry::NONE,
        }
    }

    /// Replaces the huge entry by a page table of 512 entries that map the same frames with the same flags, and
    /// returns it with its last marks; none where there is no present huge entry.
    ///
    /// In place: a reader finds the huge entry or the page, never none.
    pub fn split_huge(&mut self) -> Entry {
        let SlotState::Huge(huge) = self.state() else { return Entry::NONE };
        if !huge.is_present() {
            return Entry::NONE;
        }
        if planted::is(Bug::SplitClearsFirst) {
            self.slot.entry.set(Entry::NONE);
        }
        if planted::is(Bug::SplitExposesFirst) {
            self.slot.entry.set(Entry::TABLE);
        }
        let pages = self.slot.pages();
        for (index, page) in pages.iter().enumerate() {
            page.prepare(huge.page(index));
        }
        let last = self.slot.entry.swap(Entry::TABLE);
        // Marks that readers set since `huge` was read.
        let late = last.flags().without(huge.flags());
        if !late.is_empty() && !planted::is(Bug::SplitForgetsMarks) {
            for page in pages {
                page.update(late, EntryFlags::EMPTY);
            }
        }
        self.used.0 = pages.len();
        self.huge = self.huge.wrapping_sub(1);
        self.base = self.base.wrapping_add(pages.len() as u64);
        last
    }

    /// The place of the entry that maps `gfn`, or that would.
    fn leaf(&self, gfn: Gfn) -> Option<&'a EntryCell> {
        if gfn.block() != self.block || !self.table.contains(gfn) {
            return None;
        }
        match self.state() {
            SlotState::Table => self.slot.page(gfn.in_block()),
            _ => Some(&self.slot.entry),
        }
    }

    fn check_empty(&self) -> Result<(), SetError> {
        match self.state() {
            SlotState::None => Ok(()),
            SlotState::Huge(entry) => Err(SetError::Occupied { entry }),
            SlotState::Table => Err(SetError::TableExposed),
        }
    }

    /// `old` became `new`, which is none or has the same size.
    fn count(&mut self, old: Entry, new: Entry) {
        let change = u64::from(new.is_present()).wrapping_sub(u64::from(old.is_present()));
        let size = if new.is_none() { old.size() } else { new.size() };
        match size {
            PageSize::Base => self.base = self.base.wrapping_add(change),
            PageSize::Huge => self.huge = self.huge.wrapping_add(change),
        }
    }
}

impl Drop for PtGuard<'_> {
    fn drop(&mut self) {
        if self.used.0 == 0 && self.state() == SlotState::Table {
            self.slot.entry.set(Entry::NONE);
        }
        if self.base != 0 {
            self.table.base.add(self.base);
        }
        if self.huge != 0 {
            self.table.huge.add(self.huge);
        }
    }
}
