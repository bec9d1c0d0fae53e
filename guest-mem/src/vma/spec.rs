//! What is asked for in a range, how it is cut, and when two ranges are one.

use std::sync::Arc;

use mmu_notifier::AddressRange;

use crate::rmap::{Mapping, MmId, Window};

/// Whether a range may be mapped by huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum HugePolicy {
    /// 4 KiB pages only.
    #[default]
    Never,
    /// 2 MiB pages wherever one fits.
    Always,
}

/// What is asked for in a range, apart from its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VmaFlags {
    /// The guest may write; such pages are charged to the commit limit.
    pub writable: bool,
    /// Writes are tracked: pages are mapped write-protected first.
    pub dirty_tracked: bool,
    /// Pages of equal content may be made one.
    pub mergeable: bool,
    /// Whether huge pages are used.
    pub huge: HugePolicy,
}

/// One change to what is asked for in a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmaChange {
    /// Whether the guest may write.
    Writable(bool),
    /// Whether writes are tracked.
    DirtyTracked(bool),
    /// Whether pages of equal content may be made one.
    Mergeable(bool),
    /// Whether huge pages are used.
    Huge(HugePolicy),
    /// What reports call the range.
    Name(Option<Arc<str>>),
}

/// What is asked for in one range.
#[derive(Clone, Debug)]
pub struct VmaSpec {
    /// The guest-physical range, in bytes.
    pub range: AddressRange,
    /// What is asked for in it.
    pub flags: VmaFlags,
    /// What reports call it.
    pub name: Option<Arc<str>>,
    /// What it maps.
    pub mapping: Arc<Mapping>,
    /// Where in the mapping the range starts, in bytes; a multiple of 4096.
    pub offset: u64,
}

impl VmaSpec {
    /// Where in the mapping the page at the guest-physical `address` is, in bytes. `address` lies in the range.
    #[must_use]
    pub fn offset_of(&self, address: u64) -> u64 {
        self.offset + (address - self.range.start())
    }

    /// The part of it that lies in `range`.
    pub(super) fn part(&self, range: AddressRange) -> Option<Self> {
        let range = self.range.intersection(range)?;
        Some(Self { range, offset: self.offset_of(range.start()), ..self.clone() })
    }

    /// Its parts before and behind `range`.
    pub(super) fn around(&self, range: AddressRange) -> [Option<Self>; 2] {
        let part = |start: u64, end: u64| self.part(AddressRange::new(start, end.checked_sub(start)?).ok()?);
        [part(self.range.start(), range.start()), part(range.end(), self.range.end())]
    }

    pub(super) fn apply(&mut self, change: &VmaChange) {
        match change {
            VmaChange::Writable(on) => self.flags.writable = *on,
            VmaChange::DirtyTracked(on) => self.flags.dirty_tracked = *on,
            VmaChange::Mergeable(on) => self.flags.mergeable = *on,
            VmaChange::Huge(policy) => self.flags.huge = *policy,
            VmaChange::Name(name) => self.name.clone_from(name),
        }
    }

    /// Whether `next` goes on where this ends, in the guest and in the same mapping, and asks for the same.
    pub(super) fn merges_with(&self, next: &Self) -> bool {
        self.range.end() == next.range.start()
            && self.offset_of(self.range.end()) == next.offset
            && self.asks_for_the_same(next)
    }

    /// Whether `other` is about the same pages and asks for the same.
    pub(super) fn equals(&self, other: &Self) -> bool {
        self.range == other.range && self.offset == other.offset && self.asks_for_the_same(other)
    }

    /// Its entry in the reverse map.
    pub(super) fn window(&self, mm: MmId) -> Window {
        Window { mm, guest: self.range, offset: self.offset }
    }

    fn asks_for_the_same(&self, other: &Self) -> bool {
        self.flags == other.flags && self.name == other.name && Arc::ptr_eq(&self.mapping, &other.mapping)
    }
}
