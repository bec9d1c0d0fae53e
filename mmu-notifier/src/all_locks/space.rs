//! An address space that is nothing but its locks, for the tests and models.

use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::LockedSpace;
use crate::{
    InterruptToken, MmapLock, MmapWriteGuard, RmapLock, VmaLock,
    lock::{RawLock, ReverseMap, Vma},
    sync::Arc,
};

/// VMAs, each with the things it maps.
#[derive(Debug, Default)]
pub(super) struct Space {
    pub(super) mmap: MmapLock,
    pub(super) vmas: Vec<TestVma>,
    /// How many locks were shown so far.
    shown: AtomicUsize,
    /// What the walk does when it has shown so many.
    pub(super) at: Option<(usize, Mischief)>,
}

#[derive(Debug, Default)]
pub(super) struct TestVma {
    pub(super) lock: VmaLock,
    pub(super) maps: Vec<Arc<RmapLock>>,
}

/// What may happen in the middle of a walk.
#[derive(Debug)]
#[cfg_attr(loom, expect(dead_code, reason = "the models let other threads interrupt"))]
pub(super) enum Mischief {
    Interrupt(Arc<InterruptToken>),
    Panic,
    /// From then on shows nothing.
    ShowNothing,
    /// Goes on when told to stop.
    InterruptAndGoOn(Arc<InterruptToken>),
}

impl Space {
    /// A space whose n-th VMA maps the n-th of `maps`.
    pub(super) fn new(maps: impl IntoIterator<Item = Vec<Arc<RmapLock>>>) -> Self {
        let vmas = maps.into_iter().map(|maps| TestVma { lock: VmaLock::new(()), maps });
        Self { vmas: vmas.collect(), ..Self::default() }
    }

    /// Whether nobody holds any of its locks but perhaps the mmap_lock.
    pub(super) fn is_free(&self) -> bool {
        self.vmas
            .iter()
            .all(|vma| vma.lock.try_write().is_some() && vma.maps.iter().all(|map| map.try_write().is_some()))
    }

    fn show<C>(
        &self,
        lock: &RawLock<C>,
        visit: &mut dyn FnMut(&RawLock<C>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let shown = self.shown.fetch_add(1, Relaxed);
        match &self.at {
            Some((at, Mischief::Interrupt(token))) if shown == *at => token.interrupt(),
            Some((at, Mischief::Panic)) if shown == *at => panic!("in the middle of a walk"),
            Some((at, Mischief::ShowNothing)) if shown >= *at => return ControlFlow::Continue(()),
            Some((at, Mischief::InterruptAndGoOn(token))) if shown >= *at => {
                token.interrupt();
                let _ = visit(lock);
                return ControlFlow::Continue(());
            }
            _ => {}
        }
        visit(lock)
    }
}

impl LockedSpace for Space {
    type Vmas = ();

    fn mmap_lock(&self) -> &MmapLock {
        &self.mmap
    }

    fn vma_locks(
        &self,
        _mmap: &MmapWriteGuard<'_>,
        visit: &mut dyn FnMut(&RawLock<Vma>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.vmas.iter().try_for_each(|vma| self.show(vma.lock.raw(), visit))
    }

    fn rmap_locks(
        &self,
        _mmap: &MmapWriteGuard<'_>,
        visit: &mut dyn FnMut(&RawLock<ReverseMap>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.vmas.iter().flat_map(|vma| &vma.maps).try_for_each(|map| self.show(map.raw(), visit))
    }
}
