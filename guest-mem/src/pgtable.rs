//! The page table of an address space: which frame backs each guest page.
//!
//! One slot for each 2 MiB of guest memory holds nothing, one entry of 2 MiB, or a page table of 512 entries of 4 KiB.
//! Writers hold the slot's lock ([`PtGuard`]). Readers hold nothing: page tables, once made, stay what they are until
//! the [`PageTable`] goes, so a reader may be late but never reads something else.
//!
//! **A reference without a lock** ([`get`](PageTable::get), [`pin`](PageTable::pin)): between reading an entry and
//! taking a reference to its frame, the page may be unmapped and the frame given to another page. So look up, try to
//! take the reference, and look again (after Nick Piggin's speculative page references):
//!
//! ```text
//! reader                              reclaimer
//! entry -> frame 7
//!                                     clear the entry
//!                                     frame 7: last reference dropped, free
//!                                     frame 7: claimed for another page, count 1
//! try_get(frame 7): succeeds
//! look again: the entry is gone
//! put(frame 7), start over
//! ```
//!
//! Whoever gets the reference after the frame was claimed anew synchronizes with the claim, and so with the clearing
//! before it: the second look cannot miss it. Whoever gets it before makes the reclaimer's freeze fail.
//!
//! **Huge first.** An empty slot shows no page table unless a writer asked for one under the lock
//! ([`expose_table`](PtGuard::expose_table)), and shows none any more when its last page is cleared. So a fault finds
//! an empty range free for a huge entry, whatever other faults are about to do (after Hugh Dickins).

mod directory;
mod entry;
mod guard;
mod iter;
mod pin;

#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod tests;

use mmu_notifier::{AddressRange, sync::Tally};

use crate::{
    folio::{FolioRef, FrameTable},
    frame::{Gfn, PageSize, Pfn},
    planted::{self, Bug},
};
use directory::Directory;
use entry::EntryCell;

pub use entry::{Entry, EntryFlags};
pub use guard::{PtGuard, SetError, SlotState};
pub use pin::{Pin, PinError, Pinned};

/// Where references to frames are taken: the frame table of a pool, or of several.
pub trait Frames: Copy {
    /// One reference; dropping it gives it back.
    type Ref;

    /// Takes a reference to the folio of `size` whose first frame is `pfn`, unless it has none or is frozen: nothing
    /// is waited for.
    ///
    /// On success the caller synchronizes with whoever claimed or unfroze the folio.
    fn try_get(self, pfn: Pfn, size: PageSize) -> Option<Self::Ref>;
}

/// The frames of one pool: the pool's number is not looked at.
impl<'t> Frames for &'t FrameTable {
    type Ref = FolioRef<'t>;

    #[inline]
    fn try_get(self, pfn: Pfn, size: PageSize) -> Option<FolioRef<'t>> {
        FrameTable::try_get(self, pfn.index(), size)
    }
}

/// The range cannot have a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{range} goes beyond the {bits}-bit guest-physical addresses that x86_64 has; place the memory lower",
    bits = PageTable::ADDRESS_BITS
)]
pub struct BeyondAddressSpace {
    /// What was asked for.
    pub range: AddressRange,
}

/// The page lies outside the range that the page table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest page {gfn:#x} lies outside the page table's range {range}", gfn = gfn.get())]
pub struct OutsideTable {
    /// The page.
    pub gfn: Gfn,
    /// The page table's range.
    pub range: AddressRange,
}

/// What a page table maps, in entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    /// Present entries of 4 KiB.
    pub base: u64,
    /// Present entries of 2 MiB.
    pub huge: u64,
}

/// The page table of one range of guest-physical addresses.
///
/// Holds entries only: references and mapcounts are moved by whoever changes them.
#[derive(Debug)]
pub struct PageTable {
    range: AddressRange,
    directory: Directory,
    base: Tally,
    huge: Tally,
}

impl PageTable {
    /// Bits of a guest-physical address.
    pub const ADDRESS_BITS: u32 = 52;

    /// An empty page table for `range`, which may start and end within a 2 MiB range; such ends are mapped in 4 KiB.
    ///
    /// Costs 8 bytes for each GiB, and more only where something is mapped.
    ///
    /// # Errors
    /// [`BeyondAddressSpace`] when `range` ends above 2^[`ADDRESS_BITS`](Self::ADDRESS_BITS).
    pub fn new(range: AddressRange) -> Result<Self, BeyondAddressSpace> {
        if range.end() > 1 << Self::ADDRESS_BITS {
            return Err(BeyondAddressSpace { range });
        }
        Ok(Self { range, directory: Directory::new(range), base: Tally::new(), huge: Tally::new() })
    }

    /// The addresses that the page table is for.
    #[must_use]
    pub const fn range(&self) -> AddressRange {
        self.range
    }

    /// The entry that maps `gfn`, or [`Entry::NONE`], without a lock: what it is at some moment of the call.
    #[inline]
    #[must_use]
    pub fn walk(&self, gfn: Gfn) -> Entry {
        self.find(gfn).map_or(Entry::NONE, |(_, entry)| entry)
    }

    /// Whether nothing at all is mapped in the 2 MiB range of `gfn`, without a lock: so a huge entry may fit there.
    #[must_use]
    pub fn is_empty_around(&self, gfn: Gfn) -> bool {
        self.directory.slot(gfn).is_none_or(|slot| slot.entry.load().is_none())
    }

    /// A reference to the folio that `gfn` is mapped to, and the entry, without a lock: at some moment of the call
    /// both were true together.
    ///
    /// None where nothing is mapped, where the folio is frozen, and while the page is migrating.
    pub fn get<F: Frames>(&self, gfn: Gfn, frames: F) -> Option<(F::Ref, Entry)> {
        loop {
            let entry = self.walk(gfn);
            if !entry.is_present() {
                return None;
            }
            let (head, size) = entry.folio();
            let reference = frames.try_get(head, size);
            let again = self.walk(gfn);
            if again.maps_as(entry) || planted::is(Bug::NoSecondLook) {
                return reference.map(|reference| (reference, again));
            }
            // Another thread changed the entry, and the reference, if any, is to a folio of who knows whom.
        }
    }

    /// Locks the entries of the 2 MiB range that `gfn` lies in.
    ///
    /// # Errors
    /// [`OutsideTable`] when `gfn` is not of this page table's range.
    pub fn lock(&self, gfn: Gfn) -> Result<PtGuard<'_>, OutsideTable> {
        let outside = OutsideTable { gfn, range: self.range };
        if !self.contains(gfn) {
            return Err(outside);
        }
        let slot = self.directory.slot_or_make(gfn).ok_or(outside)?;
        Ok(PtGuard::new(self, slot, gfn.block()))
    }

    /// How much is mapped: exact but for what guards that are held at the moment have changed.
    #[must_use]
    pub fn mapped(&self) -> Mapped {
        Mapped { base: self.base.get(), huge: self.huge.get() }
    }

    /// Bytes of metadata that were made so far, the page table itself included.
    #[must_use]
    pub fn metadata_bytes(&self) -> usize {
        size_of::<Self>() + self.directory.bytes()
    }

    fn contains(&self, gfn: Gfn) -> bool {
        gfn >= Gfn::of(self.range.start()) && gfn < Gfn::of(self.range.end())
    }

    /// The entry that maps `gfn`, and its place.
    #[inline]
    fn find(&self, gfn: Gfn) -> Option<(&EntryCell, Entry)> {
        let slot = self.directory.slot(gfn)?;
        let entry = slot.entry.load();
        if !entry.is_table() {
            return Some((&slot.entry, entry));
        }
        let cell = slot.page(gfn.in_block())?;
        Some((cell, cell.load()))
    }
}
