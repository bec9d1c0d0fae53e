//! Holding the frames of a range where they are, for whoever hands their addresses to a device.

use mmu_notifier::AddressRange;

use super::{Entry, EntryFlags, Frames, PageTable};
use crate::frame::{Gfn, PageSize, Pfn};

/// Why a range could not be pinned: its first page that could not. None is pinned then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Nothing is mapped there.
    #[error("guest page {gfn:#x} is not mapped; touch it, then pin again", gfn = gfn.get())]
    Missing {
        /// The page.
        gfn: Gfn,
    },
    /// Its folio is frozen: it is about to be reclaimed, split or moved.
    #[error("the folio of guest page {gfn:#x} is frozen; pin again later", gfn = gfn.get())]
    Frozen {
        /// The page.
        gfn: Gfn,
    },
    /// It is being moved to another frame.
    #[error("guest page {gfn:#x} is moving to another frame; pin again later", gfn = gfn.get())]
    Migrating {
        /// The page.
        gfn: Gfn,
    },
    /// It is to be written, and its entry does not allow that now.
    #[error("guest page {gfn:#x} is write-protected; resolve a write fault there, then pin again", gfn = gfn.get())]
    WriteProtected {
        /// The page.
        gfn: Gfn,
    },
}

impl PinError {
    /// The page that could not be pinned.
    #[must_use]
    pub const fn gfn(self) -> Gfn {
        match self {
            Self::Missing { gfn }
            | Self::Frozen { gfn }
            | Self::Migrating { gfn }
            | Self::WriteProtected { gfn } => gfn,
        }
    }
}

/// Consecutive pages that one entry maps to consecutive frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The first page.
    pub gfn: Gfn,
    /// Its frame.
    pub pfn: Pfn,
    /// How many pages: 1, or up to 512 in a huge page.
    pub pages: u64,
}

/// The frames of a range are not moved, freed or reused until this is dropped.
#[must_use = "dropping it unpins"]
#[derive(Debug)]
pub struct Pin<R> {
    range: AddressRange,
    /// Apart from the rest, so that pinning what one entry maps allocates nothing.
    first: (Pinned, R),
    rest: Vec<(Pinned, R)>,
}

impl<R> Pin<R> {
    /// What is pinned, in guest-physical bytes.
    #[must_use]
    pub const fn range(&self) -> AddressRange {
        self.range
    }

    /// Where the pages of the range are, in order and without a gap.
    pub fn pieces(&self) -> impl Iterator<Item = Pinned> + '_ {
        std::iter::once(&self.first).chain(&self.rest).map(|(pinned, _)| *pinned)
    }
}

impl PageTable {
    /// Pins the pages of `range`, for a device that will write them (`write`) or only read them. Takes no lock and
    /// waits for nobody.
    ///
    /// Marks the pages [`YOUNG`](EntryFlags::YOUNG), and for writing [`DIRTY`](EntryFlags::DIRTY). Marks stay when a
    /// later page fails. A page may be unmapped while it is pinned; its frame stays.
    ///
    /// # Errors
    /// [`PinError`]: the first page that could not be pinned, and why.
    pub fn pin<F: Frames>(
        &self,
        range: AddressRange,
        write: bool,
        frames: F,
    ) -> Result<Pin<F::Ref>, PinError> {
        let end = Gfn::of(range.end());
        let first = self.pin_entry(Gfn::of(range.start()), end, write, frames)?;
        let mut next = first.0.gfn.plus(first.0.pages);
        let mut rest = Vec::new();
        while next < end {
            let piece = self.pin_entry(next, end, write, frames)?;
            next = next.plus(piece.0.pages);
            rest.push(piece);
        }
        Ok(Pin { range, first, rest })
    }

    /// Pins the pages from `gfn` on, below `end`, that are mapped by one entry.
    #[inline]
    fn pin_entry<F: Frames>(
        &self,
        gfn: Gfn,
        end: Gfn,
        write: bool,
        frames: F,
    ) -> Result<(Pinned, F::Ref), PinError> {
        let marks = if write { EntryFlags::YOUNG | EntryFlags::DIRTY } else { EntryFlags::YOUNG };
        loop {
            let (cell, entry) = self.find(gfn).ok_or(PinError::Missing { gfn })?;
            check(gfn, entry, write)?;
            let (head, size) = entry.folio();
            let Some(reference) = frames.try_get(head, size) else {
                if self.walk(gfn).maps_as(entry) {
                    return Err(PinError::Frozen { gfn });
                }
                continue;
            };
            // To look again at the place of the entry is enough: what it holds counts as long as it is not none, since
            // a page table that is not exposed is empty, or is being filled with what the huge entry maps.
            if cell.look_again(entry, marks) {
                let pages = match entry.size() {
                    PageSize::Base => 1,
                    PageSize::Huge => gfn.block().plus(PageSize::Huge.pages()).min(end).get() - gfn.get(),
                };
                return Ok((Pinned { gfn, pfn: entry.pfn_of(gfn), pages }, reference));
            }
        }
    }
}

/// Whether what `gfn` is mapped by can be pinned.
fn check(gfn: Gfn, entry: Entry, write: bool) -> Result<(), PinError> {
    if entry.is_migrating() {
        return Err(PinError::Migrating { gfn });
    }
    if !entry.is_present() {
        return Err(PinError::Missing { gfn });
    }
    if write && !entry.is_writable() {
        return Err(PinError::WriteProtected { gfn });
    }
    Ok(())
}
