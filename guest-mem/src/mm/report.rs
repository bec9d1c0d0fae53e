//! What an address space looks like: the `/proc/PID/smaps` of a guest's RAM, for people and for programs.
//!
//! Nothing waits for a report: VMAs are those of a snapshot, entries and mapcounts are read without a lock, page by page.
//! So each number is true of each page at some moment, and the sums are exact when nothing changes meanwhile. Only what
//! the pool holds is asked for block by block, under each block's lock in turn.

#[cfg(feature = "serde")]
mod json;
mod text;

use mmu_notifier::{AddressRange, PAGE_SIZE};

use super::{FaultCount, Mm};
use crate::{
    Gfn,
    pgtable::{Entry, EntryFlags},
    vma::{Vma, VmaFlags},
};

/// Bits behind the binary point of a share of a page, as Linux has them.
const SHARE_SHIFT: u32 = 12;

/// One address space.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MmReport {
    /// Its number in this process.
    pub mm: u64,
    /// Its guest-physical addresses, in bytes.
    #[cfg_attr(feature = "serde", serde(with = "json::range"))]
    pub range: AddressRange,
    /// What the pool holds of the host for it, in bytes: mapped, zeroed ahead, or not returned yet.
    pub resident_bytes: u64,
    /// Bytes that may be written, or that were written and then made unwritable.
    pub committed_bytes: u64,
    /// Bytes of page tables and of the frames' metadata, which comes for 128 MiB at a time.
    pub metadata_bytes: u64,
    /// All VMAs together.
    pub usage: Usage,
    /// The VMAs, in address order.
    pub vmas: Vec<VmaReport>,
    /// Faults by what they were for and by what stood in their way.
    #[cfg_attr(feature = "serde", serde(with = "json::faults"))]
    pub faults: Vec<FaultCount>,
    /// Threads that resolved its faults and were replaced, because they panicked or stalled.
    pub replaced_handlers: u64,
}

/// One VMA.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VmaReport {
    /// Its guest-physical addresses, in bytes.
    #[cfg_attr(feature = "serde", serde(with = "json::range"))]
    pub range: AddressRange,
    /// What it was called.
    pub name: Option<String>,
    /// What is asked for.
    pub flags: VmaFlags,
    /// What is mapped.
    pub usage: Usage,
}

/// What is mapped in a range, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Usage {
    /// The range itself.
    pub size_bytes: u64,
    /// Mapped by entries of 2 MiB.
    pub huge_bytes: u64,
    /// Mapped by entries of 4 KiB.
    pub base_bytes: u64,
    /// The proportional share: each page that is mapped, divided by how often it is.
    pub pss_bytes: u64,
    /// Written since tracking of writes began or was last cleared. Where writes are not tracked, only what devices have
    /// pinned for writing and what was let through by a fault.
    pub dirty_bytes: u64,
    /// In folios that somebody holds beside the page tables: devices above all.
    pub pinned_bytes: u64,
}

impl Usage {
    /// All that is mapped.
    #[must_use]
    pub const fn mapped_bytes(&self) -> u64 {
        self.huge_bytes + self.base_bytes
    }
}

/// A [`Usage`] in the making.
#[derive(Default)]
struct Sum {
    usage: Usage,
    /// In fractions of a byte, so that shares of pages add up.
    pss: u64,
}

impl Mm {
    /// What it looks like now. Stops nothing; costs some nanoseconds for each entry. Of handlers it knows nothing:
    /// [`GuestRam::mm_report`](crate::GuestRam::mm_report) does.
    #[must_use]
    pub fn report(&self) -> MmReport {
        let mut total = Sum::default();
        let vmas = self.vmas.snapshot().iter().map(|vma| self.report_vma(vma, &mut total)).collect();
        MmReport {
            mm: self.id.get(),
            range: self.range,
            resident_bytes: self.stretch().report().resident * PAGE_SIZE,
            committed_bytes: self.vmas.committed() * PAGE_SIZE,
            metadata_bytes: (self.metadata_bytes() + self.table.metadata_bytes()) as u64,
            usage: total.done(),
            vmas,
            faults: self.stats().faults.to_vec(),
            replaced_handlers: 0,
        }
    }

    /// Bytes of metadata of its frames.
    fn metadata_bytes(&self) -> usize {
        let frames = self.stretch().range();
        self.folios.metadata_bytes_of(frames.start.index()..frames.end.index())
    }

    fn report_vma(&self, vma: &Vma, total: &mut Sum) -> VmaReport {
        let mut sum = Sum::default();
        sum.usage.size_bytes = vma.range.len();
        for (gfn, entry) in self.table.entries(vma.range).filter(|(_, entry)| entry.is_present()) {
            // A huge entry may reach beyond the VMA.
            let pages = Self::pages_of(gfn, entry.size());
            let part = super::bytes_of(&pages).and_then(|bytes| bytes.intersection(vma.range));
            if let Some(part) = part {
                self.add_entry(&mut sum, entry, part);
            }
        }
        total.add(&sum);
        let name = vma.name.as_deref().map(str::to_owned);
        VmaReport { range: vma.range, name, flags: vma.flags, usage: sum.done() }
    }

    /// Adds `part` of what `entry` maps.
    fn add_entry(&self, sum: &mut Sum, entry: Entry, part: AddressRange) {
        let usage = &mut sum.usage;
        *(if entry.is_huge() { &mut usage.huge_bytes } else { &mut usage.base_bytes }) += part.len();
        if entry.flags().contains(EntryFlags::DIRTY) {
            usage.dirty_bytes += part.len();
        }
        let (head, size) = entry.folio();
        let Some(folio) = self.folios.borrow(head.index(), size) else { return };
        let total = folio.total_mapcount();
        // While it comes or goes it has fewer references than mapcounts.
        if folio.references() > total + self.object.own_references() {
            usage.pinned_bytes += part.len();
        }
        if total <= 1 {
            sum.pss += part.len() << SHARE_SHIFT;
            return;
        }
        for gfn in Gfn::all_of(part) {
            let page = entry.pfn_of(gfn).index() - head.index();
            let mapcount = usize::try_from(page).map_or(1, |page| folio.mapcount(page).max(1));
            sum.pss += (PAGE_SIZE << SHARE_SHIFT) / u64::from(mapcount);
        }
    }
}

impl Sum {
    fn add(&mut self, other: &Self) {
        let (all, more) = (&mut self.usage, &other.usage);
        all.size_bytes += more.size_bytes;
        all.huge_bytes += more.huge_bytes;
        all.base_bytes += more.base_bytes;
        all.dirty_bytes += more.dirty_bytes;
        all.pinned_bytes += more.pinned_bytes;
        self.pss += other.pss;
    }

    fn done(self) -> Usage {
        Usage { pss_bytes: self.pss >> SHARE_SHIFT, ..self.usage }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
