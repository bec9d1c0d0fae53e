//! One fault, from the page that somebody touched to the entry that lets them go on.
//!
//! The VMA is found in a snapshot and its lock is tried, with no lock held; only where that fails the fault retries
//! under mmap_lock, and each reason is counted. An empty 2 MiB range is tried huge before any page table is exposed in
//! it. Whoever finds that another fault was there first looks again: a huge entry that appeared is no error.
//!
//! Every fault ends with a wake, or is left to somebody who will wake: whoever closes a page, fills it, or lets writes
//! through later.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use super::{FaultError, FaultReason, InstallError, Mm, Scratch, Shrunk};
use crate::{
    BLOCK_SIZE, Gfn, PageSize,
    pgtable::{EntryFlags, PtGuard, SlotState},
    planted::{self, Bug},
    pool::PoolMemory,
    vma::{HugePolicy, LockedVma, LookedUp, VmaSpec},
};

/// How often a fault looks again before it gives way.
const TRIES: u32 = 16;

/// What stood in the way of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// There is no entry.
    NotMapped,
    /// It was a write, and the entry forbids those.
    WriteProtected,
}

/// What came of a fault; who faulted was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// It was resolved: the access will succeed unless the page goes away again.
    Done,
    /// Somebody else resolves it, and wakes: whoever closes, fills or protects the page.
    Left,
}

/// One attempt.
pub(super) enum Step {
    Done(Resolved),
    /// Something changed: look again.
    Again(FaultReason),
    /// The page is to be filled, which is done with no lock held.
    Fill(VmaSpec),
}

impl Mm {
    /// Resolves a fault at `gfn`.
    pub(crate) fn fault(
        &self,
        gfn: Gfn,
        cause: Cause,
        scratch: &mut Scratch,
    ) -> Result<Resolved, FaultError> {
        let mut result = self.try_fault(gfn, cause, scratch);
        if matches!(result, Err(FaultError::NoFrame { .. })) {
            // No lock is held here.
            let Shrunk { freed_bytes, .. } = self.shrink(BLOCK_SIZE);
            if freed_bytes > 0 {
                self.counts.add(FaultReason::Shrunk, 1);
                result = self.try_fault(gfn, cause, scratch);
            }
        }
        match &result {
            Ok(Resolved::Done) => self.failures.are_over(gfn),
            Ok(Resolved::Left) => {}
            Err(error) => self.failed(gfn, error),
        }
        result
    }

    /// Whoever faulted is not left asleep for something that may pass, nor kept faulting for something that will not.
    #[cold]
    fn failed(&self, gfn: Gfn, error: &FaultError) {
        self.counts.add(FaultReason::Failed, 1);
        // Poison comes in the size of the window's pages.
        let size = match self.pool().memory() {
            PoolMemory::Hugetlb => PageSize::Huge,
            _ => PageSize::Base,
        };
        let page = self.offsets(&Self::pages_of(gfn, size));
        if self.failures.are_final(gfn, Instant::now()) {
            log::error!("{}; the page is poisoned, the guest stops when it touches it", with_causes(error));
            match self.install.poison(page.clone()) {
                Ok(()) => self.counts.add(FaultReason::Poisoned, 1),
                Err(error) => log::error!("the page could not be poisoned: {error}"),
            }
        } else {
            log::debug!("{}", with_causes(error));
        }
        // A fault that fails at once would be back at once.
        thread::sleep(Duration::from_millis(1));
        if let Err(error) = self.install.wake(page) {
            log::error!("whoever waits for guest page {:#x} was not woken: {error}", gfn.get());
        }
    }

    fn try_fault(&self, gfn: Gfn, cause: Cause, scratch: &mut Scratch) -> Result<Resolved, FaultError> {
        for _ in 0..TRIES {
            match self.attempt(gfn, cause)? {
                Step::Done(resolved) => return Ok(resolved),
                Step::Again(reason) => self.counts.add(reason, 1),
                Step::Fill(spec) => return self.fill(gfn, &spec, scratch),
            }
        }
        self.counts.add(FaultReason::GaveUp, 1);
        Err(FaultError::Contended { gfn })
    }

    fn attempt(&self, gfn: Gfn, cause: Cause) -> Result<Step, FaultError> {
        let reason = match self.vmas.snapshot().lock(gfn.address()) {
            LookedUp::Locked(vma) => return self.attempt_in(&vma, gfn, cause),
            LookedUp::Contended => FaultReason::VmaContended,
            LookedUp::Detached => FaultReason::VmaDetached,
            LookedUp::None => FaultReason::VmaMissing,
        };
        self.counts.add(reason, 1);
        let mmap = self.vmas.mmap_lock().read();
        let vmas = self.vmas.under(&mmap);
        let vma = vmas.lock(gfn.address()).ok_or(FaultError::NoVma { gfn })?;
        self.attempt_in(&vma, gfn, cause)
    }

    fn attempt_in(&self, vma: &LockedVma<'_>, gfn: Gfn, cause: Cause) -> Result<Step, FaultError> {
        let early = planted::is(Bug::LookBeforeLock).then(|| self.table.walk(gfn));
        let mut pt = self.lock_entries(gfn)?;
        self.unstick(&pt)?;
        let entry = early.unwrap_or_else(|| pt.entry(gfn));
        if entry.is_migrating() {
            // Whoever closed it wakes when it is open again.
            self.counts.add(FaultReason::Busy, 1);
            return Ok(Step::Done(Resolved::Left));
        }
        if entry.is_present() {
            return self.fault_on_present(&mut pt, vma, gfn, cause);
        }
        if self.filler.is_some() {
            return Ok(Step::Fill((**vma.vma()).clone()));
        }
        let huge = Self::may_be_huge(vma, gfn);
        if planted::is(Bug::TableFirst) {
            let _exposed = pt.expose_table();
        }
        match pt.state() {
            // Huge before any table is exposed.
            SlotState::None if huge => self.map_huge(pt, vma, gfn).map(Step::Done),
            SlotState::None | SlotState::Table => self.map_base(pt, vma, gfn).map(Step::Done),
            SlotState::Huge(_) => Ok(Step::Again(FaultReason::Concurrent)),
        }
    }

    /// A fault on a page that is mapped: a write that was forbidden, or an event of the past.
    fn fault_on_present(
        &self,
        pt: &mut PtGuard<'_>,
        vma: &LockedVma<'_>,
        gfn: Gfn,
        cause: Cause,
    ) -> Result<Step, FaultError> {
        let entry = pt.entry(gfn);
        let (size, pages) = (entry.size(), Self::pages_of(gfn, entry.size()));
        if cause == Cause::WriteProtected && !entry.is_writable() {
            if !vma.flags.writable {
                self.counts.add(FaultReason::Denied, 1);
                return Ok(Step::Done(Resolved::Left));
            }
            let marks = EntryFlags::WRITE | EntryFlags::DIRTY | EntryFlags::YOUNG;
            pt.update(gfn, marks, EntryFlags::WP | EntryFlags::CLEAN);
            let unprotected = self.install.protect(self.offsets(&pages), false);
            unprotected.map_err(|source| FaultError::Host { gfn, source })?;
            self.counts.add(FaultReason::WriteProtect, 1);
        } else {
            // The host may have lost the entry, when it swapped the page out for example: it is made again, and if it is
            // there, the event was stale.
            match self.map_again(gfn, size, !entry.is_writable()) {
                Ok(()) | Err(InstallError::Exists { .. }) => {}
                Err(error) => return Self::host_failed(gfn, error),
            }
            if cause == Cause::WriteProtected {
                let unprotected = self.install.protect(self.offsets(&pages), false);
                unprotected.map_err(|source| FaultError::Host { gfn, source })?;
            }
            self.counts.add(FaultReason::Spurious, 1);
        }
        self.wake(gfn, size)?;
        Ok(Step::Done(Resolved::Done))
    }

    /// Has the host map the page of `gfn` again, which it may have lost.
    fn map_again(&self, gfn: Gfn, size: PageSize, protected: bool) -> Result<(), InstallError> {
        let again = self.install.map(self.offsets(&Self::pages_of(gfn, size)), protected);
        let small = size == PageSize::Huge && self.pool().memory() != PoolMemory::Hugetlb;
        match again {
            // The host maps the huge page by small entries, of which some are there: it may be this one that is not.
            Err(InstallError::Exists { .. } | InstallError::Again { .. }) if small => {
                self.install.map(self.offsets(&Self::pages_of(gfn, PageSize::Base)), protected)
            }
            done => done,
        }
    }

    /// Whether the 2 MiB of `gfn` can be one huge page.
    pub(super) fn may_be_huge(vma: &VmaSpec, gfn: Gfn) -> bool {
        vma.flags.huge == HugePolicy::Always && Self::block_fits(vma.range, gfn)
    }

    pub(super) fn lock_entries(&self, gfn: Gfn) -> Result<PtGuard<'_>, FaultError> {
        self.table.lock(gfn).map_err(|_| FaultError::NoVma { gfn })
    }

    /// What a refusal of the host's means for the fault.
    pub(super) fn host_failed(gfn: Gfn, error: InstallError) -> Result<Step, FaultError> {
        match error {
            InstallError::Again { .. } => Ok(Step::Again(FaultReason::HostAgain)),
            InstallError::Exists { .. } => Ok(Step::Again(FaultReason::HostExists)),
            InstallError::Exiting => Err(FaultError::Exiting),
            InstallError::NotPopulated => {
                Err(FaultError::Host { gfn, source: io::Error::from_raw_os_error(libc::EFAULT) })
            }
            InstallError::Refused(source) => Err(FaultError::Host { gfn, source }),
        }
    }

    /// Lets whoever waits for the page that `gfn` lies in touch it again.
    pub(super) fn wake(&self, gfn: Gfn, size: PageSize) -> Result<(), FaultError> {
        let pages = Self::pages_of(gfn, size);
        self.install.wake(self.offsets(&pages)).map_err(|source| FaultError::Host { gfn, source })
    }

    /// What an access at the guest-physical `address` does where no host does it: it faults if it has to.
    ///
    /// # Errors
    /// [`FaultError`].
    pub fn touch(&self, address: u64, write: bool) -> Result<(), FaultError> {
        let gfn = Gfn::of(address);
        let mut scratch = Scratch::default();
        for _ in 0..TRIES {
            let entry = self.table.walk(gfn);
            let cause = match (entry.is_present(), write && !entry.is_writable()) {
                (true, false) => return Ok(()),
                (true, true) => Cause::WriteProtected,
                (false, _) => Cause::NotMapped,
            };
            if self.fault(gfn, cause, &mut scratch)? == Resolved::Left {
                thread::yield_now();
            }
        }
        Err(FaultError::Contended { gfn })
    }
}

/// The error and what caused it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
