//! One entry of the page table: nothing, or a frame and what may be done with it.
//!
//! ```text
//! bit 63      52 51                                   0
//!    [  flags   |  frame number (pool and index)       ]
//! ```

use std::{fmt, ops};

use mmu_notifier::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use crate::{
    frame::{Gfn, PageSize, Pfn},
    planted::{self, Bug},
};

const PFN_BITS: u64 = (1 << 52) - 1;

const PRESENT: u64 = 1 << 52;
const HUGE: u64 = 1 << 53;
const MIGRATING: u64 = 1 << 54;
/// In a slot only: its page table is exposed.
const TABLE: u64 = 1 << 55;

/// What a page-table entry says of its page beside the frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryFlags(u64);

impl EntryFlags {
    /// None of the flags.
    pub const EMPTY: Self = Self(0);
    /// The owner lets the guest write.
    pub const WRITE: Self = Self(1 << 56);
    /// Faulted or pinned since somebody last cleared this.
    pub const YOUNG: Self = Self(1 << 57);
    /// Faulted or pinned for writing since somebody last cleared this.
    pub const DIRTY: Self = Self(1 << 58);
    /// Writes fault although they are allowed: they are watched, or the frame is shared.
    pub const WP: Self = Self(1 << 59);
    /// The frame lies in a folio of 2 MiB, also where the entry maps 4 KiB of it.
    pub const LARGE: Self = Self(1 << 60);
    /// Holds what its filler supplied: no write has been let through since.
    pub const CLEAN: Self = Self(1 << 61);

    const ALL: Self = Self(0b11_1111 << 56);

    /// Whether every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether no flag is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The flags of `self` that `other` lacks.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl ops::BitOr for EntryFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for EntryFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::WRITE, "WRITE"),
            (Self::YOUNG, "YOUNG"),
            (Self::DIRTY, "DIRTY"),
            (Self::WP, "WP"),
            (Self::LARGE, "LARGE"),
            (Self::CLEAN, "CLEAN"),
        ];
        let mut set = names.iter().filter(|(flag, _)| self.contains(*flag)).map(|(_, name)| *name);
        f.write_str(set.next().unwrap_or("EMPTY"))?;
        set.try_for_each(|name| write!(f, "|{name}"))
    }
}

/// One entry of a [`PageTable`](super::PageTable).
///
/// It is none; or *present*: it maps a frame and owns one reference and one mapcount of its folio; or *migrating*: it
/// remembers the frame, owns nothing, and whoever set it will put a present entry in its place.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry(u64);

impl Entry {
    /// Nothing is mapped.
    pub const NONE: Self = Self(0);
    /// What a slot holds whose page table is exposed. Never seen outside this module.
    pub(super) const TABLE: Self = Self(TABLE);

    /// A present entry that maps `pfn`, or for a huge one the 512 frames from `pfn` on.
    #[must_use]
    pub const fn new(pfn: Pfn, size: PageSize, flags: EntryFlags) -> Self {
        let size = match size {
            PageSize::Base => 0,
            PageSize::Huge => HUGE | EntryFlags::LARGE.0,
        };
        Self(PRESENT | size | flags.0 | (pfn.bits() & PFN_BITS))
    }

    /// Whether nothing is mapped, nor about to be mapped again.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether the entry maps a frame.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// Whether the page is being moved to another frame.
    #[must_use]
    pub const fn is_migrating(self) -> bool {
        self.0 & MIGRATING != 0
    }

    /// Whether a write to the page needs no fault.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.flags().contains(EntryFlags::WRITE) && !self.flags().contains(EntryFlags::WP)
    }

    pub(super) const fn is_table(self) -> bool {
        self.0 & TABLE != 0
    }

    /// Whether this is an entry of 2 MiB.
    #[must_use]
    pub const fn is_huge(self) -> bool {
        self.0 & HUGE != 0
    }

    /// What the entry maps: 4 KiB, or 2 MiB.
    #[must_use]
    pub const fn size(self) -> PageSize {
        if self.is_huge() { PageSize::Huge } else { PageSize::Base }
    }

    /// The first frame that the entry maps.
    #[must_use]
    pub const fn pfn(self) -> Pfn {
        Pfn::from_bits(self.0 & PFN_BITS)
    }

    /// The frame that the entry, found for `gfn`, maps there.
    #[must_use]
    pub const fn pfn_of(self, gfn: Gfn) -> Pfn {
        match self.size() {
            PageSize::Base => self.pfn(),
            PageSize::Huge => self.pfn().plus(gfn.in_block() as u64),
        }
    }

    /// The first frame and the size of the folio that the entry's frame belongs to.
    #[must_use]
    pub const fn folio(self) -> (Pfn, PageSize) {
        if self.flags().contains(EntryFlags::LARGE) {
            (self.pfn().block(), PageSize::Huge)
        } else {
            (self.pfn(), PageSize::Base)
        }
    }

    /// The entry's flags.
    #[must_use]
    pub const fn flags(self) -> EntryFlags {
        EntryFlags(self.0 & EntryFlags::ALL.0)
    }

    /// The entry with `flags` set as well.
    #[must_use]
    pub const fn with(self, flags: EntryFlags) -> Self {
        Self(self.0 | flags.0)
    }

    /// The entry with `flags` cleared.
    #[must_use]
    pub const fn without(self, flags: EntryFlags) -> Self {
        Self(self.0 & !flags.0)
    }

    /// The marker that stands in for this entry while its page is moved.
    #[must_use]
    pub const fn migrating(self) -> Self {
        Self(self.0 & !PRESENT | MIGRATING)
    }

    /// The present entry that a [marker](Self::migrating) stood in for.
    #[must_use]
    pub const fn restored(self) -> Self {
        Self(self.0 & !MIGRATING | PRESENT)
    }

    /// Whether both map one frame of one folio, in one size: equal but for what may be done with the page.
    #[must_use]
    pub const fn maps_as(self, other: Self) -> bool {
        let mutable = EntryFlags::ALL.without(EntryFlags::LARGE).0;
        (self.0 ^ other.0) & !mutable == 0
    }

    /// The entry for page `index` of the 512 that this huge entry maps.
    pub(super) const fn page(self, index: usize) -> Self {
        Self((self.0 & !HUGE) + index as u64)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_present(), self.is_migrating()) {
            (true, _) => write!(f, "{:?} of {:?}, {:?}", self.size(), self.pfn(), self.flags()),
            (false, true) => write!(f, "migrating {:?} of {:?}", self.size(), self.pfn()),
            (false, false) => f.write_str(if self.is_table() { "table" } else { "none" }),
        }
    }
}

/// The place of an entry. Written under the page-table lock but for [marks](Self::look_again); read without.
#[derive(Debug, Default)]
pub(super) struct EntryCell(AtomicU64);

impl EntryCell {
    /// For lock-free readers. Acquire: pairs with the Release in `set` and `swap`, so that whoever sees an entry sees
    /// its folio as it was when it was mapped, and whoever sees a table sees its entries.
    #[inline]
    pub(super) fn load(&self) -> Entry {
        Entry(self.0.load(Acquire))
    }

    /// For who holds the lock. Release: pairs with the Acquire in `load`.
    pub(super) fn set(&self, entry: Entry) {
        let order = if planted::is(Bug::RelaxedSet) { Relaxed } else { Release };
        self.0.store(entry.0, order);
    }

    /// For a place that no reader is led to yet. Relaxed: the Release that exposes it comes later.
    pub(super) fn prepare(&self, entry: Entry) {
        self.0.store(entry.0, Relaxed);
    }

    /// For who holds the lock: what was there, with the marks that were set up to now. Release: pairs with the Acquire
    /// in `load`. Acquire: pairs with the Release in `look_again`.
    pub(super) fn swap(&self, entry: Entry) -> Entry {
        let order = if planted::is(Bug::RelaxedExpose) { Relaxed } else { AcqRel };
        Entry(self.0.swap(entry.0, order))
    }

    /// For who holds the lock: sets and clears flags of what is there, in one step; returns what was there.
    pub(super) fn update(&self, set: EntryFlags, clear: EntryFlags) -> Entry {
        let mut old = self.0.load(Relaxed);
        loop {
            // As `swap`. Marks may come in between, nothing else.
            match self.0.compare_exchange_weak(old, old & !clear.0 | set.0, AcqRel, Relaxed) {
                Ok(old) => return Entry(old),
                Err(now) => old = now,
            }
        }
    }

    /// For readers: says whether the entry is still `found`, and then sets `marks`, in one step: whoever takes the
    /// entry away takes the marks along.
    #[inline]
    pub(super) fn look_again(&self, found: Entry, marks: EntryFlags) -> bool {
        if planted::is(Bug::NoSecondLook) {
            return true;
        }
        if planted::is(Bug::MarkLater) {
            let same = self.load() == found;
            let _ = self.0.compare_exchange(found.0, found.0 | marks.0, AcqRel, Relaxed);
            return same;
        }
        if found.flags().contains(marks) {
            return self.load() == found;
        }
        // Release: pairs with the Acquire in `swap`. Relaxed on failure: the caller looks from the start.
        self.0.compare_exchange(found.0, found.0 | marks.0, AcqRel, Relaxed).is_ok()
    }
}
