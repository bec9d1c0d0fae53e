//! Guest RAM as the vm-memory crate sees it.

use std::sync::Arc;

use vm_memory::{
    GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes, GuestRegionCollection,
    GuestUsize, MemoryRegionAddress, VolatileSlice,
};

use crate::{host::Mapping, service::is_handler};

/// All of one guest RAM, as vm-memory's traits see it: what devices and loaders read and write.
///
/// Clones are cheap. Each keeps the memory mapped: one that a device holds stays valid when the
/// [`GuestRam`](crate::GuestRam) it came from is gone, and the last one unmaps.
pub type GuestMemoryView = GuestRegionCollection<GuestRegion>;

/// A stretch of guest-physical addresses that owns a share of the mapping behind it.
///
/// vm-memory's own region can only borrow a mapping that somebody else made, so a clone of it could outlive the
/// memory; this one cannot.
#[derive(Debug)]
pub struct GuestRegion {
    mapping: Arc<Mapping>,
    base: GuestAddress,
}

impl GuestRegion {
    /// The region that shows `mapping` at `base`; the two together do not wrap.
    pub(crate) fn new(mapping: Arc<Mapping>, base: GuestAddress) -> Self {
        Self { mapping, base }
    }
}

impl GuestMemoryRegion for GuestRegion {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.mapping.len()
    }

    fn start_addr(&self) -> GuestAddress {
        self.base
    }

    fn bitmap(&self) {}

    fn get_host_address(&self, address: MemoryRegionAddress) -> Result<*mut u8, GuestMemoryError> {
        self.mapping.pointer(address.0, 1).ok_or(GuestMemoryError::InvalidBackendAddress)
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_>, GuestMemoryError> {
        debug_assert!(
            !is_handler(),
            "a thread that resolves faults touches guest RAM: it would wait for itself"
        );
        self.mapping.slice(offset.0, count).ok_or(GuestMemoryError::InvalidBackendAddress)
    }
}

impl GuestMemoryRegionBytes for GuestRegion {}
