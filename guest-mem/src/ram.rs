//! Guest RAM.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use mmu_notifier::{AddressRange, Subscriptions};

use crate::backing::BASE_PAGE;
use crate::discard::{self, FreeError, Zap};
use crate::host::{self, Advice, Mapping};
use crate::managed::Managed;
use crate::pinned::Pins;
use crate::report::Smaps;
use crate::shared_hugetlb::SharedHugetlb;
use crate::{
    Backing, ByteSize, DiscardError, Discarded, FaultTrace, GuestMemoryView, Mm, MmReport, RamReport,
    ReportError,
};

/// One stretch of guest-physical memory: mapped in this process, ready to be given to KVM.
///
/// Dropping it unmaps the memory, or leaves that to the last clone of its [`view`](Self::view). KVM keeps the host
/// address without owning it, so drop the VM, or delete its memory slot, first.
#[derive(Debug)]
pub struct GuestRam {
    /// Dropped first: who keeps translations is released before the memory goes.
    pub(crate) resolver: Resolver,
    pub(crate) range: AddressRange,
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) store: Store,
    pub(crate) view: GuestMemoryView,
    pub(crate) backing: Backing,
    pub(crate) size: ByteSize,
    /// Held by the one discard that runs, from before its start until after its end: a page found present stays so
    /// until its edge is zeroed. Above every lock that a subscriber's callback takes.
    pub(crate) discarding: Mutex<()>,
    /// What a discard leaves alone, where the kernel resolves the faults.
    pub(crate) pins: Arc<Pins>,
}

/// Who resolves the faults.
#[derive(Debug)]
pub(crate) enum Resolver {
    /// The kernel does; what this process takes away is announced here.
    Kernel(Subscriptions),
    /// This process does.
    Underlay(Managed),
}

/// Who owns the pages of a mapping.
#[derive(Debug)]
pub(crate) enum Store {
    /// The mapping does.
    Private,
    /// This memfd does.
    Memfd(File),
    /// This memfd of huge pages does.
    SharedHugetlb(SharedHugetlb),
    /// This `guest_memfd` does.
    GuestMemfd(File),
    /// The pool of frames does.
    Pool,
}

/// The address in this process of the first byte of a guest RAM.
///
/// Holding one tells you that it is a multiple of the backing's [`largest_page`](Backing::largest_page); it does not
/// keep the memory mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostAddress(usize);

impl HostAddress {
    /// The address as a number, as `KVM_SET_USER_MEMORY_REGION` takes it.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0 as u64
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl GuestRam {
    /// The memory as vm-memory's traits see it.
    ///
    /// A clone of it keeps the memory mapped, and readable and writable, for as long as it lives. Where this process
    /// resolves the faults, the frames go back to their pool with the RAM, and the clone finds plain memory in their place:
    /// zeros at first, never a frame that somebody else may have.
    #[must_use]
    pub fn view(&self) -> &GuestMemoryView {
        &self.view
    }

    /// Where the memory begins in this process.
    #[must_use]
    pub fn host_address(&self) -> HostAddress {
        HostAddress(self.mapping.address())
    }

    /// How many bytes the guest sees.
    #[must_use]
    pub const fn size(&self) -> ByteSize {
        self.size
    }

    /// What the pages are made of.
    #[must_use]
    pub const fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Where the guest sees the memory, in guest-physical bytes.
    #[must_use]
    pub const fn range(&self) -> AddressRange {
        self.range
    }

    /// The `guest_memfd` that KVM is to fault pages from; `None` for every other backing.
    #[must_use]
    pub fn guest_memfd(&self) -> Option<BorrowedFd<'_>> {
        match &self.store {
            Store::GuestMemfd(file) => Some(file.as_fd()),
            Store::Private | Store::Memfd(_) | Store::SharedHugetlb(_) | Store::Pool => None,
        }
    }

    /// Whom every change of this memory is announced to: whoever keeps a translation of it registers here.
    ///
    /// The kernel resolves the guest's faults, so only what this process takes away is announced, a discard above all;
    /// its invalidations hold no lock of the notifiers' ([`exempt`](Subscriptions::exempt)). Subscribers are released
    /// when the RAM is dropped, before it is unmapped.
    #[must_use]
    pub fn owner(&self) -> &Subscriptions {
        match &self.resolver {
            Resolver::Kernel(owner) => owner,
            Resolver::Underlay(managed) => managed.mm().owner(),
        }
    }

    /// The memory manager, if the backing is [managed](Backing::is_managed).
    #[must_use]
    pub fn mm(&self) -> Option<&Arc<Mm>> {
        match &self.resolver {
            Resolver::Kernel(_) => None,
            Resolver::Underlay(managed) => Some(managed.mm()),
        }
    }

    /// What the memory manager knows, if the backing is [managed](Backing::is_managed).
    #[must_use]
    pub fn mm_report(&self) -> Option<MmReport> {
        let report = self.mm()?.report();
        Some(MmReport { replaced_handlers: self.replaced_handlers(), ..report })
    }

    /// The times of the latest faults that this process resolved; none are kept any more. See
    /// [`ServiceConfig::trace`](crate::ServiceConfig::trace).
    #[must_use]
    pub fn take_fault_trace(&self) -> Vec<FaultTrace> {
        match &self.resolver {
            Resolver::Kernel(_) => Vec::new(),
            Resolver::Underlay(managed) => managed.take_trace(),
        }
    }

    /// Threads that resolved faults and were replaced, because they panicked or their filler passed its deadline.
    #[must_use]
    pub fn replaced_handlers(&self) -> u64 {
        match &self.resolver {
            Resolver::Kernel(_) => 0,
            Resolver::Underlay(managed) => managed.replaced_handlers(),
        }
    }

    /// Takes the pages of `range`, in guest-physical bytes, away from the guest and gives them to the kernel.
    ///
    /// When this returns, the range reads as it did when the RAM was new: zeros, or the file's bytes. Pages of hugetlb
    /// that only partly lie in the range stay, and are zeroed there. Those that are freed go back to the pool, reserved
    /// for this RAM again: a later touch finds one. What is [pinned](Self::pin) is left as it is, and counted. (For a private backing the kernel renews the reservation itself,
    /// since Linux 6.9; before, another process may take the page.)
    ///
    /// Every subscriber of the [`owner`](Self::owner) has stopped using the range before a page goes. Not to be called in
    /// a callback of one. Of two concurrent calls one waits for the other. What the guest or a device writes into the range meanwhile
    /// may be kept or be lost, but touching it does not fail. (With private hugetlb it may, by SIGBUS or `EFAULT` from
    /// `KVM_RUN`, while the kernel holds the old page for the fault of another vCPU, a system call or a device: that page
    /// is promised again before it is free.)
    ///
    /// Shared hugetlb is replaced by plain memory while its pages are freed. What is discarded of it stays a mapping
    /// of its own at first; when such RAM has more than 64, the neighbours with the fewest pages are mapped again as one, and
    /// the guest finds their pages by new faults. Where `vm.overcommit_memory` is 2, the range must fit into the limit.
    ///
    /// # Errors
    /// [`DiscardError`]; unless it is `OutOfRange`, part of the range may have been discarded. After `RamLost` no part of
    /// the RAM can be used. Hugetlb needs Linux 5.18, memory that is locked (`mlock`) cannot be discarded.
    pub fn discard(&self, range: AddressRange) -> Result<Discarded, DiscardError> {
        let owner = match &self.resolver {
            Resolver::Kernel(owner) => owner,
            Resolver::Underlay(managed) => return managed.mm().discard(range),
        };
        let _one_at_a_time = self.discarding.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.range.covers(range) {
            return Err(DiscardError::OutOfRange { range, ram: self.range });
        }
        let discarding = self.pins.begin_discard(range);
        let mut all = Discarded::default();
        for part in &discarding.parts {
            let done = discard::discard(owner, self.range, self, self.backing.page_size(), *part)?;
            all.freed_bytes += done.freed_bytes;
            all.zeroed_bytes += done.zeroed_bytes;
        }
        all.pinned_bytes = range.len() - all.freed_bytes - all.zeroed_bytes;
        Ok(all)
    }

    /// How much of the memory is there.
    ///
    /// Meant for now and then: for a private backing it reads `/proc/self/smaps` up to this mapping.
    ///
    /// # Errors
    /// [`ReportError`] if the kernel does not say.
    pub fn report(&self) -> Result<RamReport, ReportError> {
        if let Resolver::Underlay(managed) = &self.resolver {
            return Ok(managed.report(self.size));
        }
        let smaps = || {
            let start = self.host_address().get();
            Smaps::of(start..start + self.mapping.len())
        };
        let (resident, huge) = match &self.store {
            Store::Private if self.backing.is_hugetlb() => {
                let hugetlb = smaps()?.hugetlb;
                (hugetlb, Some(hugetlb))
            }
            Store::Private => {
                let smaps = smaps()?;
                (smaps.rss, Some(smaps.thp))
            }
            Store::Memfd(file) => {
                let blocks = host::allocated_bytes(file).map_err(ReportError::Stat)?;
                (blocks, Some(smaps()?.thp))
            }
            Store::SharedHugetlb(shared) => {
                let blocks = host::allocated_bytes(shared.file()).map_err(ReportError::Stat)?;
                (blocks, Some(blocks))
            }
            Store::GuestMemfd(_) => {
                // Its st_blocks is always 0, and Rss knows only what this process touched; the page cache knows all.
                let resident = self.mapping.resident_bytes(0..self.mapping.len());
                (resident.map_err(ReportError::Residency)?, None)
            }
            // Reported above.
            Store::Pool => (0, None),
        };
        Ok(RamReport { guest_bytes: self.size.bytes(), resident_bytes: Some(resident), huge_bytes: huge })
    }
}

impl Zap for GuestRam {
    fn free(&self, range: Range<u64>) -> Result<(), FreeError> {
        match &self.store {
            Store::Private => self.mapping.advise(range, Advice::DontNeed),
            Store::SharedHugetlb(shared) => return shared.free(&self.mapping, &range),
            Store::Memfd(file) | Store::GuestMemfd(file) => host::punch_hole(file, &range),
            // Discarded by its manager.
            Store::Pool => Ok(()),
        }
        .map_err(FreeError::Refused)
    }

    fn is_present(&self, page: u64) -> io::Result<bool> {
        // A page of hugetlb is there as a whole or not at all. No page gets into the memfd but by a fault of this
        // mapping, so the page table knows those too.
        let first = page..page + BASE_PAGE;
        Ok(self.mapping.resident_bytes(first)? > 0)
    }

    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        self.mapping.zero(range)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
