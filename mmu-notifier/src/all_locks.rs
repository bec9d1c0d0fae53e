//! Taking every lock of an address space, so that nothing else goes on in it.
//!
//! **Guarantee.** While an [`AllLocksGuard`] lives, every operation on the address space that holds its mmap_lock, one
//! of its VMA locks, or the reverse-map lock of anything it maps, is over or has not begun. Since every invalidation
//! holds one of these from before its start until after its end, none is under way. What may run meanwhile: faults and
//! everything else in *other* address spaces, as far as they do not need a mapping that is shared with this one, and
//! readers of this one that take no lock. No fault, no reclaim, no change of a mapping in this one.
//!
//! **Algorithm** (Linux's `mm_take_all_locks`). Under the mmap_lock, held for writing so that the VMAs stay what they
//! are, and under the process's one all_locks lock: walk the VMAs and write-lock each one's VMA lock, since a fault that
//! holds only that may be in the middle of an invalidation; then walk again and write-lock the reverse-map lock of all
//! that each VMA maps. Many VMAs may map one thing, and its lock must be taken once, so a taken lock gets a mark, in
//! its own word: no sort, no set, and nothing that grows with the number of VMAs. Releasing is the same walk:
//! what has the mark was taken, and the mark goes in the same step as the lock.
//!
//! **No deadlock.** Everybody else takes at most one reverse-map lock at a time, and no VMA lock under it, so the order
//! in which the locks of one rank are taken here does not matter, but for two takers that share mappings: hence
//! all_locks. It also keeps the marks apart: while one taker has it, every mark in the process is this taker's, so
//! looking at a mark needs no other lock.
//!
//! **An owner whose walk errs** does no harm to memory. The marks decide what is released, never what the walk says, so
//! no lock is released that is held by somebody else. A lock that the walk showed for taking and does not show for
//! releasing stays locked, until a later taker shows and releases it; dropping the guard panics then and says how many.

use std::ops::ControlFlow;

use crate::{
    interrupt::{InterruptToken, Interrupted},
    lock::{AllLocks, LockClass, MmapLock, MmapWriteGuard, RankedLock, RawLock, ReverseMap, Vma, WriteGuard},
    order::{self, Held},
    planted::{self, Bug},
};

/// The one taker in the process. Under an mmap_lock held for writing, above the VMA locks.
#[cfg(not(loom))]
static ALL_LOCKS: RankedLock<AllLocks> = RankedLock::new(());
#[cfg(loom)]
loom::lazy_static! {
    static ref ALL_LOCKS: RankedLock<AllLocks> = RankedLock::new(());
}

/// An address space that shows its locks to [`take_all_locks`].
///
/// ```
/// use std::{ops::ControlFlow, sync::Arc};
/// use mmu_notifier::lock::{RawLock, ReverseMap, Vma};
/// use mmu_notifier::{LockedSpace, MmapLock, MmapWriteGuard, RmapLock, VmaLock, take_all_locks};
///
/// struct Area { lock: VmaLock, file: Arc<RmapLock> }
///
/// #[derive(Default)]
/// struct Space { mmap_lock: MmapLock<Vec<Area>> }
///
/// impl LockedSpace for Space {
///     type Vmas = Vec<Area>;
///
///     fn mmap_lock(&self) -> &MmapLock<Vec<Area>> {
///         &self.mmap_lock
///     }
///
///     fn vma_locks(
///         &self,
///         areas: &MmapWriteGuard<'_, Vec<Area>>,
///         visit: &mut dyn FnMut(&RawLock<Vma>) -> ControlFlow<()>,
///     ) -> ControlFlow<()> {
///         areas.iter().try_for_each(|area| visit(area.lock.raw()))
///     }
///
///     fn rmap_locks(
///         &self,
///         areas: &MmapWriteGuard<'_, Vec<Area>>,
///         visit: &mut dyn FnMut(&RawLock<ReverseMap>) -> ControlFlow<()>,
///     ) -> ControlFlow<()> {
///         areas.iter().try_for_each(|area| visit(area.file.raw()))
///     }
/// }
///
/// let (space, file) = (Space::default(), Arc::new(RmapLock::default()));
/// let mut areas = space.mmap_lock.write();
/// areas.extend([0, 1].map(|_| Area { lock: VmaLock::default(), file: Arc::clone(&file) }));
///
/// let all = take_all_locks(&areas, &space, None)?;
/// assert_eq!(all.locks(), 3); // two areas, one file
/// assert!(file.try_read().is_none());
/// # Ok::<(), mmu_notifier::Interrupted>(())
/// ```
///
/// Each walk calls `visit` with locks until it breaks, and returns what the last call returned; so
/// `self.vmas.iter().try_for_each(|vma| visit(vma.lock.raw()))` is one. It shows the same locks whenever it runs under
/// the same hold of the mmap_lock, takes none of them, and does not panic. It may show a lock more than once.
pub trait LockedSpace {
    /// What the mmap_lock guards; `()` for an owner that keeps its VMAs elsewhere.
    type Vmas: ?Sized;

    /// The address space's mmap_lock.
    fn mmap_lock(&self) -> &MmapLock<Self::Vmas>;

    /// Shows the VMA lock of every VMA, in address order.
    fn vma_locks(
        &self,
        mmap: &MmapWriteGuard<'_, Self::Vmas>,
        visit: &mut dyn FnMut(&RawLock<Vma>) -> ControlFlow<()>,
    ) -> ControlFlow<()>;

    /// Shows the reverse-map lock of whatever a VMA maps, for every VMA in address order.
    fn rmap_locks(
        &self,
        mmap: &MmapWriteGuard<'_, Self::Vmas>,
        visit: &mut dyn FnMut(&RawLock<ReverseMap>) -> ControlFlow<()>,
    ) -> ControlFlow<()>;
}

/// Every lock of an address space is held, until this is dropped.
///
/// The mmap_lock cannot be released before:
///
/// ```compile_fail,E0505
/// # use mmu_notifier::{LockedSpace, take_all_locks};
/// fn too_early<S: LockedSpace>(space: &S) {
///     let mmap = space.mmap_lock().write();
///     let all = take_all_locks(&mmap, space, None);
///     drop(mmap); // error[E0505]: cannot move out of `mmap` because it is borrowed
///     drop(all);
/// }
/// ```
#[must_use = "the locks are released when the guard is dropped"]
pub struct AllLocksGuard<'a, S: LockedSpace + ?Sized> {
    mmap: &'a MmapWriteGuard<'a, S::Vmas>,
    space: &'a S,
    /// How many locks were taken and not released.
    taken: usize,
    // Dropped in this order, after the locks they stand for were released.
    rmap_locks: Option<Held>,
    vma_locks: Option<Held>,
    /// Always there, but where a model leaves it out.
    _all_locks: Option<WriteGuard<'static, AllLocks>>,
}

/// Takes every lock of `space`: all_locks, each VMA lock for writing, then each distinct reverse-map lock once.
///
/// Sleeps for each lock that somebody holds, also for all_locks while another taker is at work anywhere in the process.
/// `mmap` is the witness that the VMAs do not change meanwhile.
///
/// # Errors
/// [`Interrupted`] when `interrupt` was set: before a lock, or within a few milliseconds while asleep. Exactly what was
/// taken has been released then.
///
/// # Panics
/// When `mmap` is of another address space than `space`. In debug builds, when this thread holds a lock under mmap_lock.
pub fn take_all_locks<'a, S: LockedSpace + ?Sized>(
    mmap: &'a MmapWriteGuard<'a, S::Vmas>,
    space: &'a S,
    interrupt: Option<&InterruptToken>,
) -> Result<AllLocksGuard<'a, S>, Interrupted> {
    assert!(mmap.is_of(space.mmap_lock()), "the mmap_lock held is another address space's");
    let all_locks = match interrupt {
        _ if planted::is(Bug::NoAllLocks) => None,
        Some(token) => Some(ALL_LOCKS.write_interruptible(token)?),
        None => Some(ALL_LOCKS.write()),
    };
    let mut guard =
        AllLocksGuard { mmap, space, taken: 0, rmap_locks: None, vma_locks: None, _all_locks: all_locks };
    guard.take(interrupt)?;
    Ok(guard)
}

impl<S: LockedSpace + ?Sized> AllLocksGuard<'_, S> {
    /// How many locks are held: the VMA locks and the distinct reverse-map locks.
    #[must_use]
    pub fn locks(&self) -> usize {
        self.taken
    }

    /// On an error the caller drops the guard, which releases what was taken.
    fn take(&mut self, interrupt: Option<&InterruptToken>) -> Result<(), Interrupted> {
        let mut taking = Taking { taken: &mut self.taken, result: Ok(()), interrupt };
        self.vma_locks = Some(order::acquire(Vma::RANK, "every VMA lock of an address space"));
        if !planted::is(Bug::SkipVmaLocks) {
            let _ = self.space.vma_locks(self.mmap, &mut |lock| taking.take(lock));
        }
        taking.result?;
        self.rmap_locks =
            Some(order::acquire(ReverseMap::RANK, "every reverse-map lock of an address space"));
        if !planted::is(Bug::SkipRmapLocks) {
            let _ = self.space.rmap_locks(self.mmap, &mut |lock| taking.take(lock));
        }
        taking.result
    }
}

struct Taking<'a> {
    taken: &'a mut usize,
    result: Result<(), Interrupted>,
    interrupt: Option<&'a InterruptToken>,
}

impl Taking<'_> {
    fn take<C>(&mut self, lock: &RawLock<C>) -> ControlFlow<()> {
        // Looked at here as well, for a walk that goes on although it was told to stop.
        if self.result.is_ok() {
            match lock.take(self.interrupt) {
                Ok(newly) => *self.taken += usize::from(newly),
                Err(interrupted) => self.result = Err(interrupted),
            }
        }
        match self.result {
            Ok(()) => ControlFlow::Continue(()),
            Err(Interrupted) => ControlFlow::Break(()),
        }
    }
}

impl<S: LockedSpace + ?Sized> Drop for AllLocksGuard<'_, S> {
    fn drop(&mut self) {
        let taken = &mut self.taken;
        let _ = self.space.rmap_locks(self.mmap, &mut |lock| release(lock, taken));
        self.rmap_locks = None;
        let _ = self.space.vma_locks(self.mmap, &mut |lock| release(lock, taken));
        self.vma_locks = None;
        assert!(
            self.taken == 0 || std::thread::panicking(),
            "the owner showed {} locks to take that it did not show to release; they stay locked",
            self.taken
        );
    }
}

fn release<C>(lock: &RawLock<C>, taken: &mut usize) -> ControlFlow<()> {
    *taken = taken.saturating_sub(usize::from(lock.release()));
    ControlFlow::Continue(())
}

#[cfg(test)]
#[cfg(loom)]
mod models;

#[cfg(test)]
#[cfg(not(loom))]
mod mischief;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
