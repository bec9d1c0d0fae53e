//! Memory that several address spaces show, as its owner sees it.

use std::sync::Arc;

use mmu_notifier::{AddressRange, PAGE_SIZE};

use super::{Filler, MemoryObject, Shrunk};
use crate::{
    BLOCK_SIZE, ByteSize,
    discard::{DiscardError, Discarded},
    pool::{Commitment, FramePool, ReserveError, UsageReport},
};

/// Memory that several address spaces show, each through a window of its own: the RAM of VMs that share it, or the image
/// that they are clones of.
///
/// A page has one frame, whoever touches it, and keeps its content until it is [removed](Self::remove) or the last handle
/// and the last address space go. What one writes the others read.
#[derive(Clone, Debug)]
pub struct SharedMemory(Arc<MemoryObject>);

impl SharedMemory {
    /// Sets `size` of `pool` aside, rounded up to 2 MiB. The first content comes from `filler`; zeros if from nowhere.
    ///
    /// # Errors
    /// [`ReserveError`]; nothing is set aside.
    pub fn new(
        pool: &Arc<FramePool>,
        size: ByteSize,
        commitment: Commitment,
        filler: Option<Arc<dyn Filler>>,
    ) -> Result<Self, ReserveError> {
        let stretch = pool.reserve(size.bytes().div_ceil(BLOCK_SIZE), commitment)?;
        Ok(Self(MemoryObject::shared(stretch, filler, 1)))
    }

    pub(super) fn of(object: &Arc<MemoryObject>) -> Option<Self> {
        object.is_shared().then(|| Self(Arc::clone(object)))
    }

    pub(super) const fn object(&self) -> &Arc<MemoryObject> {
        &self.0
    }

    pub(crate) fn into_object(self) -> Arc<MemoryObject> {
        self.0
    }

    /// How many bytes there are.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.stretch().frames() * PAGE_SIZE
    }

    /// What its frames are used for.
    #[must_use]
    pub fn report(&self) -> UsageReport {
        self.0.stretch().report()
    }

    /// Takes the pages of `range`, bytes from its start, away from all who show them, and gives their frames back: when this
    /// returns they read as when the memory was new, but for those that are pinned, which are counted. (Linux:
    /// `MADV_REMOVE`.)
    ///
    /// The subscribers of each address space are told, before and after. A part of a huge page is zeroed, as by
    /// [`Mm::discard`](super::Mm::discard).
    ///
    /// # Errors
    /// [`DiscardError`].
    pub fn remove(&self, range: AddressRange) -> Result<Discarded, DiscardError> {
        if range.end() > self.bytes() {
            let ram = AddressRange::new(0, self.bytes()).unwrap_or(range);
            return Err(DiscardError::OutOfRange { range, ram });
        }
        self.0.remove(range).map_err(|source| DiscardError::Refused { range, source })
    }

    /// Takes pages away from all that nobody would miss, until `want_bytes` have been given back or all has been looked at
    /// once; see [`Mm::shrink`](super::Mm::shrink).
    #[expect(clippy::must_use_candidate, reason = "the pages are gone, whether somebody counts them or not")]
    pub fn shrink(&self, want_bytes: u64) -> Shrunk {
        self.0.shrink(want_bytes)
    }
}
