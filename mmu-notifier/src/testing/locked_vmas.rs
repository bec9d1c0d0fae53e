//! An address space that is nothing but its locks.

use std::ops::ControlFlow;

use crate::{
    LockedSpace, MmapLock, MmapWriteGuard, RmapLock, VmaLock,
    lock::{RawLock, ReverseMap, Vma},
    sync::Arc,
};

/// VMAs that map nothing but locks: what an engine, or [`take_all_locks`](crate::take_all_locks), is tried on without a
/// memory manager. Also for models under loom.
///
/// ```
/// use std::sync::Arc;
/// use mmu_notifier::{AllLocks, LockedSpace, Subscriptions, take_all_locks};
/// use mmu_notifier::testing::{LockedVmas, Recorder};
///
/// let space = LockedVmas::shared(1000);
/// let owner = Subscriptions::new();
/// owner.register_by(&AllLocks::new(&space, None), Arc::new(Recorder::new("device")))?;
/// assert!(space.is_free());
///
/// let mmap = space.mmap_lock().write();
/// let all = take_all_locks(&mmap, &space, None)?;
/// assert_eq!(all.locks(), 1001); // a lock for each VMA, and one for what they all map
/// assert!(space.vmas()[7].lock.try_read().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct LockedVmas {
    mmap: MmapLock,
    /// Each an object of its own, as an owner's would be.
    vmas: Vec<Arc<LockedVma>>,
}

/// One of the [`LockedVmas`]. It maps, as a VMA of Linux does, at most a file and anonymous memory.
#[derive(Debug, Default)]
pub struct LockedVma {
    /// Its own lock, which a fault holds.
    pub lock: VmaLock,
    /// The reverse map of the file that it maps.
    pub file: Option<Arc<RmapLock>>,
    /// The reverse map of its anonymous memory.
    pub anon: Option<Arc<RmapLock>>,
}

impl LockedVma {
    /// The reverse-map locks of all that it maps, in the order in which they are shown.
    pub fn maps(&self) -> impl Iterator<Item = &Arc<RmapLock>> {
        self.file.iter().chain(&self.anon)
    }
}

impl LockedVmas {
    /// So many VMAs, each with anonymous memory of its own; allocated in address order.
    #[must_use]
    pub fn own(count: usize) -> Self {
        Self::mapping((0..count).map(|_| Arc::default()))
    }

    /// The same, allocated in no order: each lock is a cache miss that no prefetcher foresees.
    #[must_use]
    pub fn scattered(count: usize) -> Self {
        let mut space = Self::own(count);
        // Knuth's multiplier: neighbours go far apart.
        let mut place = 0_usize;
        space.vmas.sort_by_cached_key(|_| {
            place = place.wrapping_add(0x9e37_79b9_7f4a_7c15);
            place
        });
        space
    }

    /// So many VMAs that all have the same anonymous memory.
    #[must_use]
    pub fn shared(count: usize) -> Self {
        let shared = Arc::default();
        Self::mapping((0..count).map(|_| Arc::clone(&shared)))
    }

    fn mapping(anon: impl Iterator<Item = Arc<RmapLock>>) -> Self {
        anon.map(|anon| LockedVma { anon: Some(anon), ..LockedVma::default() }).collect()
    }

    /// Its VMAs, in address order.
    #[must_use]
    pub fn vmas(&self) -> &[Arc<LockedVma>] {
        &self.vmas
    }

    /// Whether nobody holds any of its locks; the mmap_lock is not looked at.
    #[must_use]
    pub fn is_free(&self) -> bool {
        let free = |vma: &LockedVma| {
            vma.lock.try_write().is_some() && vma.maps().all(|map| map.try_write().is_some())
        };
        self.vmas.iter().all(|vma| free(vma))
    }
}

/// Those VMAs, in address order.
impl FromIterator<LockedVma> for LockedVmas {
    fn from_iter<I: IntoIterator<Item = LockedVma>>(vmas: I) -> Self {
        Self { mmap: MmapLock::default(), vmas: vmas.into_iter().map(Arc::new).collect() }
    }
}

impl LockedSpace for LockedVmas {
    type Vmas = ();

    fn mmap_lock(&self) -> &MmapLock {
        &self.mmap
    }

    fn vma_locks(
        &self,
        _: &MmapWriteGuard<'_>,
        visit: &mut dyn FnMut(&RawLock<Vma>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.vmas.iter().try_for_each(|vma| visit(vma.lock.raw()))
    }

    fn rmap_locks(
        &self,
        _: &MmapWriteGuard<'_>,
        visit: &mut dyn FnMut(&RawLock<ReverseMap>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.vmas.iter().try_for_each(|vma| vma.maps().try_for_each(|map| visit(map.raw())))
    }
}
