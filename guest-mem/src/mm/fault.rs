//! One fault, from the page that somebody touched to the entry that lets them go on.
//!
//! The VMA is found in a snapshot and its lock is tried, with no lock held; only where that fails the fault retries
//! under mmap_lock, and each reason is counted. An empty 2 MiB range is tried huge before any page table is exposed in
//! it. Whoever finds that another fault was there first looks again: a huge entry that appeared is no error.
//!
//! Every fault ends with a wake, or is left to somebody who will wake: whoever closes a page, fills it, or lets writes
//! through later.

use std::{
    io,
    ops::{Deref, Range},
    thread,
    time::{Duration, Instant},
};

use mmu_notifier::sync::lock;

use super::{
    FaultError, FaultReason, InstallError, Mm, Scratch,
    fill::{Extent, Fill},
};
use crate::{
    BLOCK_SIZE, Gfn, PageSize, host,
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

/// What came of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// It was resolved: the access will succeed unless the page goes away again. Who faulted was woken.
    Done {
        /// Just before that, in ticks of the host's time stamp counter.
        at: u64,
    },
    /// Somebody else resolves it, and wakes: whoever closes, fills or protects the page.
    Left,
}

/// One attempt.
pub(super) enum Step {
    /// These pages are mapped as the access needs it: whoever waits for them is to be woken.
    Mapped(Range<Gfn>),
    /// Somebody else resolves it, and wakes.
    Left,
    /// Something changed: look again.
    Again(FaultReason),
    /// The page is to be filled, which is done with no lock held.
    Fill(VmaSpec),
}

/// How far a fault has come.
enum Begun {
    Over(Resolved),
    Filling(Fill),
}

/// Resolves a fault at `gfn` of the address space that `mm` finds. That is not held while a filler runs, which may take
/// for ever. None if it has ended meanwhile: then nobody waits any more.
pub(crate) fn resolve<M: Deref<Target = Mm>>(
    mm: impl Fn() -> Option<M>,
    gfn: Gfn,
    cause: Cause,
    scratch: &mut Scratch,
) -> Option<Result<Resolved, FaultError>> {
    let (mut most, mut may_shrink) = (Extent::Huge, true);
    loop {
        let mut filled = Extent::Page;
        let begun = mm()?.begin_fault(gfn, cause, most);
        let result = match begun {
            Ok(Begun::Over(resolved)) => Ok(resolved),
            Ok(Begun::Filling(fill)) => {
                filled = fill.extent();
                fill.run(&mm, scratch)?
            }
            Err(error) => Err(error),
        };
        let mm = mm()?;
        if matches!(result, Err(FaultError::NoFrame { .. })) {
            // There may be fewer.
            if let Some(less) = filled.less(&mm) {
                mm.counts.add(FaultReason::HugeFallback, u64::from(filled == Extent::Huge));
                most = less;
                continue;
            }
            // No lock is held here.
            if may_shrink && mm.shrink(BLOCK_SIZE).freed_bytes > 0 {
                mm.counts.add(FaultReason::Shrunk, 1);
                may_shrink = false;
                continue;
            }
        }
        match &result {
            Ok(Resolved::Done { .. }) => mm.failures.are_over(gfn),
            Ok(Resolved::Left) => {}
            Err(error) => mm.failed(gfn, error),
        }
        return Some(result);
    }
}

impl Mm {
    /// Resolves a fault at `gfn`.
    pub(crate) fn fault(
        &self,
        gfn: Gfn,
        cause: Cause,
        scratch: &mut Scratch,
    ) -> Result<Resolved, FaultError> {
        resolve(|| Some(self), gfn, cause, scratch).unwrap_or(Ok(Resolved::Left))
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
            match self.poison(gfn, size) {
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

    fn begin_fault(&self, gfn: Gfn, cause: Cause, most: Extent) -> Result<Begun, FaultError> {
        for _ in 0..TRIES {
            match self.attempt(gfn, cause)? {
                // No lock is held.
                Step::Mapped(pages) => return self.wake(gfn, self.offsets(&pages)).map(Begun::Over),
                Step::Left => return Ok(Begun::Over(Resolved::Left)),
                Step::Again(reason) => self.counts.add(reason, 1),
                Step::Fill(spec) => return self.begin_fill(gfn, &spec, most),
            }
        }
        self.counts.add(FaultReason::GaveUp, 1);
        Err(FaultError::Contended { gfn })
    }

    fn begin_fill(&self, gfn: Gfn, vma: &VmaSpec, most: Extent) -> Result<Begun, FaultError> {
        match Fill::begin(self, gfn, vma, most) {
            Ok(fill) => Ok(Begun::Filling(fill)),
            Err(not_begun) => not_begun.map(Begun::Over),
        }
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
        self.enter_stuck(&mut pt, vma, gfn)?;
        let entry = early.unwrap_or_else(|| pt.entry(gfn));
        if entry.is_migrating() {
            // Whoever closed it wakes when it is open again.
            self.counts.add(FaultReason::Busy, 1);
            return Ok(Step::Left);
        }
        if entry.is_present() {
            return self.fault_on_present(&mut pt, vma, gfn, cause);
        }
        let frame = self.frame(gfn);
        if self.object.is_closed(&(frame..frame.plus(1))) {
            // Whoever removes it from all wakes when that is done.
            self.counts.add(FaultReason::Busy, 1);
            return Ok(Step::Left);
        }
        if self.has_filler() && !self.object.is_cached(frame) {
            return Ok(Step::Fill((**vma.vma()).clone()));
        }
        let huge = Self::may_be_huge(vma, gfn) && self.object.fits_huge(frame);
        if planted::is(Bug::TableFirst) {
            let _exposed = pt.expose_table();
        }
        let mapped = match pt.state() {
            // Huge before any table is exposed.
            SlotState::None if huge => self.map_huge(pt, vma, gfn),
            SlotState::None | SlotState::Table => self.map_base(pt, vma, gfn),
            SlotState::Huge(_) => return Ok(Step::Again(FaultReason::Concurrent)),
        };
        match mapped {
            // By another address space, which maps it.
            Err(error) if self.object.is_shared() && error.is_taken() => {
                Ok(Step::Again(FaultReason::Concurrent))
            }
            mapped => mapped,
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
                if let Some(page) = super::bytes_of(&Self::pages_of(gfn, PageSize::Base)) {
                    lock(&self.denied).insert(page);
                }
                return Ok(Step::Left);
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
                Err(InstallError::Again { .. }) => return Ok(Step::Again(FaultReason::HostAgain)),
                Err(error) => return Err(error.of(gfn)),
            }
            if cause == Cause::WriteProtected {
                let unprotected = self.install.protect(self.offsets(&pages), false);
                unprotected.map_err(|source| FaultError::Host { gfn, source })?;
            }
            self.counts.add(FaultReason::Spurious, 1);
        }
        Ok(Step::Mapped(pages))
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

    /// Ends the fault at `gfn`: lets whoever waits in `offsets` of the window touch it again.
    pub(super) fn wake(&self, gfn: Gfn, offsets: Range<u64>) -> Result<Resolved, FaultError> {
        // Before, as nobody knows how much of the call the one who is woken waits for.
        let at = host::time_stamp();
        self.install.wake(offsets).map_err(|source| FaultError::Host { gfn, source })?;
        Ok(Resolved::Done { at })
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

impl InstallError {
    /// What it means for a fault at `gfn`.
    pub(super) fn of(self, gfn: Gfn) -> FaultError {
        match self {
            Self::Again { .. } | Self::Exists { .. } => FaultError::Contended { gfn },
            Self::Exiting => FaultError::Exiting,
            Self::NotPopulated => {
                FaultError::Host { gfn, source: io::Error::from_raw_os_error(libc::EFAULT) }
            }
            Self::Refused(source) => FaultError::Host { gfn, source },
        }
    }
}

/// The error and what caused it, in one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
