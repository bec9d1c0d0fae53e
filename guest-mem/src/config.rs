//! What a piece of guest RAM is to be.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vm_memory::GuestAddress;

use crate::{Backing, ByteSize, ManagedConfig};

/// What a piece of guest RAM is to be; [`GuestRam::create`](crate::GuestRam::create) makes it so.
#[derive(Debug)]
pub struct GuestRamConfig {
    /// How many bytes; a multiple of the backing's [`page_size`](Backing::page_size).
    pub size: ByteSize,
    /// What the pages are made of.
    pub backing: Backing,
    /// The guest-physical address of the first byte; a multiple of 4 KiB.
    ///
    /// The second stage can map a page of any size only where guest and host address agree modulo that size, so this
    /// should be a multiple of the backing's [`largest_page`](Backing::largest_page).
    pub guest_base: GuestAddress,
    /// The VM's name, for `/proc/PID/maps`.
    pub guest: String,
    /// The name of this piece of its RAM, for `/proc/PID/maps`.
    pub region: String,
    /// Whether, and how, every page is populated before the guest runs.
    pub prefault: Option<Prefault>,
    /// The NUMA node that every page must come from.
    ///
    /// For a file this binds the private copies that the guest's writes make; pages that are only read stay where
    /// the page cache has them.
    pub numa_node: Option<u32>,
    /// The `guest_memfd`, at least `size` bytes long: given exactly when the backing is [`Backing::GuestMemfd`].
    pub guest_memfd: Option<OwnedFd>,
    /// How the RAM is run, if the backing is [managed](Backing::is_managed).
    pub managed: ManagedConfig,
    /// Set by whoever wants the making to stop; it is looked at between the steps of populating.
    pub interrupt: Option<Arc<AtomicBool>>,
}

/// How pages are populated ahead of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefault {
    /// How many threads populate at the same time.
    pub threads: NonZeroUsize,
}

impl GuestRamConfig {
    /// RAM of `size` and `backing` at guest-physical 0, named `vm` and `ram`, populated by the guest's own touches.
    #[must_use]
    pub fn new(size: ByteSize, backing: Backing) -> Self {
        Self {
            size,
            backing,
            guest_base: GuestAddress(0),
            guest: "vm".to_owned(),
            region: "ram".to_owned(),
            prefault: None,
            numa_node: None,
            guest_memfd: None,
            managed: ManagedConfig::default(),
            interrupt: None,
        }
    }
}
