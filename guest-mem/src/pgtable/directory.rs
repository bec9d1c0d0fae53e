//! Where the slots and the page tables are: made when first needed, and there until the [`PageTable`](super::PageTable)
//! goes, so that a reader without a lock never follows a pointer to something else.

use std::array;

use mmu_notifier::AddressRange;
use once_cell::race::OnceBox;

use super::entry::EntryCell;
use crate::{
    frame::{BLOCK_PAGES, BLOCK_SIZE, Gfn},
    order::PtLock,
};

/// Slots that are made together: 1 GiB of guest memory, 32 KiB here. Models look at the first.
pub(super) const CHUNK_SLOTS: usize = if cfg!(loom) { 2 } else { 512 };
/// Entries in a table. Models look at the first two pages of a block only: all 512 would take them days.
pub(super) const TABLE_ENTRIES: usize = if cfg!(loom) { 2 } else { 512 };

/// The entries of one 2 MiB range.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Slot {
    /// None, a huge leaf, or `Entry::TABLE`.
    pub(super) entry: EntryCell,
    /// The page table; readers look at it only where `entry` says so. Stays when it is withdrawn.
    table: OnceBox<Table>,
    /// Whoever changes an entry holds this. Order: page-table lock, below the reverse-map lock, above the leaves.
    pub(super) lock: PtLock<Used>,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot>() == 64, "one cache line, and no neighbour's lock on it");

/// How many of a page table's entries are not none.
#[derive(Debug, Default)]
pub(super) struct Used(pub(super) usize);

/// A page table. Every entry is none while it is not exposed.
#[derive(Debug)]
struct Table([EntryCell; TABLE_ENTRIES]);

/// The slots of 1 GiB.
#[derive(Debug)]
struct Chunk([Slot; CHUNK_SLOTS]);

/// All slots of a range.
#[derive(Debug)]
pub(super) struct Directory {
    /// The number of the first slot, counted from address 0.
    first: u64,
    chunks: Box<[OnceBox<Chunk>]>,
}

impl Slot {
    /// The place of page `index` in the page table, if the table was ever made.
    #[inline]
    pub(super) fn page(&self, index: usize) -> Option<&EntryCell> {
        self.table.get()?.0.get(index)
    }

    /// The places of all pages; makes the table.
    pub(super) fn pages(&self) -> &[EntryCell] {
        &self.table.get_or_init(|| Box::new(Table(array::from_fn(|_| EntryCell::default())))).0
    }
}

impl Directory {
    /// A directory of the slots that `range` touches.
    pub(super) fn new(range: AddressRange) -> Self {
        let first = range.start() / BLOCK_SIZE;
        let slots = range.end().div_ceil(BLOCK_SIZE) - first;
        let chunks = (0..slots.div_ceil(CHUNK_SLOTS as u64)).map(|_| OnceBox::new()).collect();
        Self { first, chunks }
    }

    /// Bytes that were allocated so far.
    pub(super) fn bytes(&self) -> usize {
        let of_tables = |chunk: &Chunk| {
            let made = chunk.0.iter().filter(|slot| slot.table.get().is_some()).count();
            made * size_of::<Table>()
        };
        let chunks = self.chunks.iter().filter_map(OnceBox::get);
        size_of_val(&*self.chunks) + chunks.map(|chunk| size_of::<Chunk>() + of_tables(chunk)).sum::<usize>()
    }

    /// The slot of `gfn`, if its chunk was made.
    #[inline]
    pub(super) fn slot(&self, gfn: Gfn) -> Option<&Slot> {
        let (chunk, slot) = self.place(gfn);
        Some(&self.chunks.get(chunk)?.get()?.0[slot])
    }

    /// The slot of `gfn`; makes its chunk. None outside the directory.
    pub(super) fn slot_or_make(&self, gfn: Gfn) -> Option<&Slot> {
        let (chunk, slot) = self.place(gfn);
        let make = || Box::new(Chunk(array::from_fn(|_| Slot::default())));
        Some(&self.chunks.get(chunk)?.get_or_init(make).0[slot])
    }

    /// The first page after the chunk of `gfn`.
    pub(super) fn next_chunk(&self, gfn: Gfn) -> Gfn {
        let (chunk, _) = self.place(gfn);
        Gfn::new((self.first + (chunk as u64 + 1) * CHUNK_SLOTS as u64) * BLOCK_PAGES)
    }

    #[inline]
    fn place(&self, gfn: Gfn) -> (usize, usize) {
        // Below the first slot it wraps to a chunk that no directory is large enough to have.
        let slot = (gfn.get() / BLOCK_PAGES).wrapping_sub(self.first) as usize;
        (slot / CHUNK_SLOTS, slot % CHUNK_SLOTS)
    }
}
