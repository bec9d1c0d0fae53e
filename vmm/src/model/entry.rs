//! One entry of the second stage's table: nothing, the next table, or a leaf.
//!
//! ```text
//! bit 63   57 56 55 54 53 52 51                                0
//!    [  none  | D  A  W  L  P |  frame, or number of a table    ]
//! ```
#![expect(
    clippy::cast_possible_truncation,
    reason = "the casts are of places below 512 and of numbers of tables, which are 32 bits"
)]

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use guest_mem::Pfn;

/// Entries of a table: each of the four levels translates 9 bits.
pub(super) const ENTRIES: usize = 512;

const NUMBER: u64 = (1 << 52) - 1;
const PRESENT: u64 = 1 << 52;
const LEAF: u64 = 1 << 53;
const WRITE: u64 = 1 << 54;
const ACCESSED: u64 = 1 << 55;
const DIRTY: u64 = 1 << 56;

/// A level of the table, from the one whose entries map 4 KiB up to the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The lowest: leaves of 4 KiB.
    K4,
    /// Leaves of 2 MiB, or tables of those below.
    M2,
    /// Leaves of 1 GiB, or tables of those below.
    G1,
    /// The root, of 512 GiB an entry: no leaves.
    Root,
}

impl Level {
    /// Bytes that one entry of this level maps.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << (12 + 9 * self as u32)
    }

    /// Frames that one entry of this level maps.
    #[must_use]
    pub const fn frames(self) -> u64 {
        1 << (9 * self as u32)
    }

    /// The start of the range that one entry of this level maps where `address` is.
    pub(super) const fn start(self, address: u64) -> u64 {
        address & !(self.bytes() - 1)
    }

    /// The place of the entry for `address` in a table of this level.
    pub(super) const fn index(self, address: u64) -> usize {
        (address / self.bytes()) as usize % ENTRIES
    }

    /// The level that an entry of this one points down to.
    pub(super) const fn below(self) -> Option<Self> {
        match self {
            Self::K4 => None,
            Self::M2 => Some(Self::K4),
            Self::G1 => Some(Self::M2),
            Self::Root => Some(Self::G1),
        }
    }
}

/// What an address is translated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The first of the frames that the leaf maps.
    pub first: Pfn,
    /// How large it is; not [`Level::Root`].
    pub level: Level,
    /// Whether it lets writes through.
    pub writable: bool,
    /// Touched since this was last cleared.
    pub accessed: bool,
    /// Written since it was installed.
    pub dirty: bool,
}

impl Leaf {
    /// A leaf that nobody has used yet.
    #[must_use]
    pub const fn new(first: Pfn, level: Level, writable: bool) -> Self {
        Self { first, level, writable, accessed: false, dirty: false }
    }

    /// The frame behind `address`, which the leaf translates.
    #[must_use]
    pub const fn frame(&self, address: u64) -> Pfn {
        self.first.plus((address - self.level.start(address)) / Level::K4.bytes())
    }
}

/// An entry's value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(u64);

impl Entry {
    pub(super) const NONE: Self = Self(0);

    /// Points to the table numbered `number`.
    pub(super) const fn table(number: u32) -> Self {
        Self(PRESENT | number as u64)
    }

    pub(super) const fn leaf(leaf: &Leaf) -> Self {
        const fn flag(set: bool, flag: u64) -> u64 {
            if set { flag } else { 0 }
        }
        let flags = flag(leaf.writable, WRITE) | flag(leaf.accessed, ACCESSED) | flag(leaf.dirty, DIRTY);
        Self(PRESENT | LEAF | flags | leaf.first.bits())
    }

    pub(super) const fn is_none(self) -> bool {
        self.0 & PRESENT == 0
    }

    pub(super) const fn is_accessed(self) -> bool {
        self.0 & ACCESSED != 0
    }

    /// The number of the table that it points to.
    pub(super) const fn as_table(self) -> Option<u32> {
        if self.0 & (PRESENT | LEAF) == PRESENT { Some((self.0 & NUMBER) as u32) } else { None }
    }

    /// The leaf that it is, in a table of `level`.
    pub(super) const fn as_leaf(self, level: Level) -> Option<Leaf> {
        if self.0 & LEAF == 0 {
            return None;
        }
        Some(Leaf {
            first: Pfn::from_bits(self.0 & NUMBER),
            level,
            writable: self.0 & WRITE != 0,
            accessed: self.is_accessed(),
            dirty: self.0 & DIRTY != 0,
        })
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({:#x})", self.0)
    }
}

/// The place of an entry. What it maps changes only with the table locked for writing; what was done with it is
/// marked by everybody who walks.
#[derive(Debug, Default)]
pub(super) struct Cell(AtomicU64);

impl Cell {
    /// Relaxed: ordered by the lock that whoever calls holds.
    pub(super) fn get(&self) -> Entry {
        Entry(self.0.load(Relaxed))
    }

    /// Relaxed: the table is locked for writing.
    pub(super) fn set(&self, entry: Entry) {
        self.0.store(entry.0, Relaxed);
    }

    /// Marks what a walk does, as the hardware would; no store where it is marked already. `entry` was found here.
    pub(super) fn mark(&self, entry: Entry, written: bool) {
        let marks = if written { ACCESSED | DIRTY } else { ACCESSED };
        if entry.0 & marks != marks {
            // Relaxed: a mark orders nothing, and whoever collects marks locks out those who walk where it matters.
            self.0.fetch_or(marks, Relaxed);
        }
    }

    /// Forgets that it was accessed; whether it was.
    pub(super) fn clear_accessed(&self) -> bool {
        // Relaxed: as in `mark`; of two who ask, one gets the mark.
        Entry(self.0.fetch_and(!ACCESSED, Relaxed)).is_accessed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_survives_its_entry() {
        let leaf = Leaf { dirty: true, ..Leaf::new(Pfn::new(u16::MAX, 77 << 9), Level::M2, true) };

        let entry = Entry::leaf(&leaf);

        assert_eq!(entry.as_leaf(Level::M2), Some(leaf));
        assert_eq!((entry.as_table(), entry.is_none()), (None, false));
        assert_eq!(leaf.frame(0x4020_5678), Pfn::new(u16::MAX, (77 << 9) + 5));
    }

    #[test]
    fn a_mark_changes_nothing_else() {
        let cell = Cell::default();
        cell.set(Entry::table(7));

        cell.mark(cell.get(), false);

        assert_eq!(cell.get().as_table(), Some(7));
        assert!(cell.get().is_accessed() && cell.clear_accessed() && !cell.clear_accessed());
    }
}
