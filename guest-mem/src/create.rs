//! Making guest RAM.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use mmu_notifier::{AddressRange, RangeError, Subscriptions};
use vm_memory::GuestRegionCollectionError;

use crate::host::{self, Advice, Injector, MapError, Mapping, Source};
use crate::host_files::HostFiles;
use crate::managed::Managed;
use crate::name::MappingName;
use crate::numa::check_node;
use crate::prefault::prefault;
use crate::ram::{Resolver, Store};
use crate::shared_hugetlb::SharedHugetlb;
use crate::{
    Backing, BackingFileError, ByteSize, GuestMemoryView, GuestRam, GuestRamConfig, GuestRegion,
    ManagedError, NumaError, Prefault, Unavailable,
};

/// Why guest RAM could not be made; whatever had been made of it is gone again.
#[derive(Debug, thiserror::Error)]
pub enum CreateRamError {
    /// This host cannot offer the backing, or not that much of it.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The backing file cannot be used.
    #[error(transparent)]
    File(#[from] BackingFileError),
    /// The guest-physical range is unaligned or wraps.
    #[error("guest RAM cannot lie at that guest-physical address")]
    GuestRange(#[from] RangeError),
    /// The backing is `guest_memfd` and no file came with it.
    #[error("the backing guest_memfd needs the file that KVM made for it")]
    GuestMemfdMissing,
    /// A `guest_memfd` came with another backing.
    #[error("a guest_memfd was given, but the backing is {backing}")]
    GuestMemfdUnexpected {
        /// The backing asked for.
        backing: Backing,
    },
    /// The `guest_memfd` has fewer bytes than the RAM.
    #[error("the guest_memfd has {len} bytes, {size} of guest RAM needs {}", size.bytes())]
    GuestMemfdTooShort {
        /// The file's length in bytes.
        len: u64,
        /// The RAM's size.
        size: ByteSize,
    },
    /// The `guest_memfd` does not tell its length.
    #[error("cannot find out how long the guest_memfd is")]
    GuestMemfdLength(#[source] io::Error),
    /// This process's address space has no gap of that size.
    #[error(
        "the address space of this process has no room for {size} of guest RAM; ask for less, or raise ulimit -v"
    )]
    NoAddressSpace {
        /// The RAM's size.
        size: ByteSize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The memory file could not be made.
    #[error("cannot make a memfd of {size} for {backing} guest RAM")]
    Memfd {
        /// The RAM's size.
        size: ByteSize,
        /// The backing asked for.
        backing: Backing,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the mapping.
    #[error(
        "cannot map {size} of {backing} guest RAM; the limits are vm.overcommit_memory, vm.max_map_count, ulimit -v and the control group's"
    )]
    Map {
        /// The RAM's size.
        size: ByteSize,
        /// The backing asked for.
        backing: Backing,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel did not take the advice on huge pages.
    #[error("the kernel did not take the advice on huge pages for {backing} guest RAM")]
    Advise {
        /// The backing asked for.
        backing: Backing,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The RAM cannot be bound to the NUMA node.
    #[error(transparent)]
    Numa(#[from] NumaError),
    /// The kernel cannot populate memory ahead of use.
    #[error("this kernel cannot populate guest RAM ahead of the guest: that needs Linux 5.14")]
    PrefaultUnsupported,
    /// Populating it all would have the out-of-memory killer end this process.
    #[error(
        "{size} of guest RAM cannot be populated: memory and swap have {memory} bytes; leave it to be populated as the guest touches it, or ask for less"
    )]
    PrefaultBeyondMemory {
        /// The RAM's size.
        size: ByteSize,
        /// Bytes of memory and swap.
        memory: u64,
    },
    /// A thread that populates could not be started.
    #[error("cannot start a thread to populate guest RAM")]
    PrefaultThread {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A page cannot be had; touching it later would have raised SIGBUS.
    #[error(
        "no page can be had for offset {offset:#x} of guest RAM: its huge page pool, NUMA node or control group has none left, or its file was cut short"
    )]
    NoPage {
        /// Where in the RAM the chunk begins that could not be populated, in bytes.
        offset: u64,
    },
    /// Populating failed.
    #[error("cannot populate guest RAM from offset {offset:#x} on")]
    Populate {
        /// Where in the RAM the chunk begins that could not be populated, in bytes.
        offset: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The interrupt flag was set.
    #[error("interrupted while guest RAM was populated")]
    Interrupted,
    /// The memory manager could not be made.
    #[error("managed guest RAM cannot be made")]
    Managed(#[from] ManagedError),
    /// vm-memory does not take the region.
    #[error("vm-memory does not take the guest RAM")]
    View(#[from] GuestRegionCollectionError),
}

impl GuestRam {
    /// Makes guest RAM as `config` says.
    ///
    /// All huge pages of the hugetlb allocator that it can ever need are reserved here, so that no touch fails later
    /// for want of them. Other memory is overcommitted: a size beyond the machine's memory is fine until it is used.
    ///
    /// # Errors
    /// [`CreateRamError`]; nothing is left behind.
    pub fn create(config: GuestRamConfig) -> Result<Self, CreateRamError> {
        let (size, guest_base, numa_node) = (config.size, config.guest_base, config.numa_node);
        let backing = config.backing.clone();
        let range = AddressRange::new(guest_base.0, size.bytes());
        let files = HostFiles::system();
        let nodes = match numa_node {
            Some(_) if backing == Backing::GuestMemfd => return Err(NumaError::GuestMemfd.into()),
            Some(node) => Some(check_node(files, node)?),
            None => None,
        };
        // The backing's page is the coarser unit, so its error about the size comes first.
        backing.check_host_in(files, size, numa_node)?;
        let range = range?;

        let name = MappingName::new(&config.guest, &config.region);
        if backing.is_managed() {
            return Self::create_managed(&config, range, &name, &Injector::none());
        }
        let (mut mapping, store) = map(&backing, size, &name, config.guest_memfd)?;
        advise(&mapping, &backing)?;
        if let Some(node) = numa_node {
            mapping.bind(node).map_err(|source| NumaError::Bind { node, source })?;
        }
        if let Some(how) = config.prefault.or_else(|| needed_prefault(&backing, nodes)) {
            populate(&mapping, &backing, size, how, config.interrupt.as_deref())?;
        }

        let mapping = Arc::new(mapping);
        let region = GuestRegion::new(Arc::clone(&mapping), guest_base);
        Ok(Self {
            view: GuestMemoryView::from_regions(vec![region])?,
            mapping,
            store,
            backing,
            size,
            resolver: Resolver::Kernel(Subscriptions::new()),
            range,
            discarding: Mutex::new(()),
            pins: Arc::default(),
        })
    }
}

impl GuestRam {
    pub(crate) fn create_managed(
        config: &GuestRamConfig,
        range: AddressRange,
        name: &MappingName,
        injector: &Injector,
    ) -> Result<Self, CreateRamError> {
        let (backing, size) = (config.backing.clone(), config.size);
        if config.guest_memfd.is_some() {
            return Err(CreateRamError::GuestMemfdUnexpected { backing });
        }
        let (mapping, managed) = Managed::create(&backing, size, range, name, &config.managed, injector)?;
        Self::of_managed(config, range, mapping, managed)
    }

    pub(crate) fn of_managed(
        config: &GuestRamConfig,
        range: AddressRange,
        mapping: Arc<Mapping>,
        managed: Managed,
    ) -> Result<Self, CreateRamError> {
        let region = GuestRegion::new(Arc::clone(&mapping), config.guest_base);
        Ok(Self {
            view: GuestMemoryView::from_regions(vec![region])?,
            mapping,
            store: Store::Pool,
            backing: config.backing.clone(),
            size: config.size,
            resolver: Resolver::Underlay(managed),
            range,
            discarding: Mutex::new(()),
            pins: Arc::default(),
        })
    }
}

/// Maps RAM of `backing` under `name`, and says who owns its pages.
fn map(
    backing: &Backing,
    size: ByteSize,
    name: &MappingName,
    guest_memfd: Option<OwnedFd>,
) -> Result<(Mapping, Store), CreateRamError> {
    if guest_memfd.is_some() && *backing != Backing::GuestMemfd {
        return Err(CreateRamError::GuestMemfdUnexpected { backing: backing.clone() });
    }
    let map = |source| {
        Mapping::new(size.bytes(), backing.largest_page(), source)
            .map_err(|error| map_failure(backing, size, error))
    };
    let memfd = || {
        host::memfd(name.as_c_str(), size.bytes(), backing.hugetlb())
            .map_err(|source| CreateRamError::Memfd { size, backing: backing.clone(), source })
    };
    Ok(match backing {
        Backing::Anonymous | Backing::AnonymousThp => {
            let mapping = map(Source::Anonymous)?;
            if let Err(error) = mapping.name(name.as_c_str()) {
                log::debug!("guest RAM has no name in /proc/self/maps: {error}");
            }
            (mapping, Store::Private)
        }
        // Anonymous hugetlb memory takes no name. A private mapping of a fresh memfd is the same thing to the kernel
        // (MAP_ANONYMOUS makes such a file inside) and carries the memfd's; the mapping keeps the file alive.
        Backing::AnonymousHugetlb2mb | Backing::AnonymousHugetlb1gb => {
            (map(Source::PrivateHugetlb(memfd()?.as_fd()))?, Store::Private)
        }
        Backing::Shmem | Backing::ShmemThp => {
            let file = memfd()?;
            (map(Source::Shared(file.as_fd()))?, Store::Memfd(file))
        }
        Backing::SharedHugetlb2mb | Backing::SharedHugetlb1gb => {
            let file = memfd()?;
            let mapping = map(Source::Shared(file.as_fd()))?;
            (mapping, Store::SharedHugetlb(SharedHugetlb::new(file, size.bytes())))
        }
        Backing::File(path) => {
            let file = host::open_regular(path, size)?;
            (map(Source::PrivateFile(file.as_fd()))?, Store::Private)
        }
        Backing::Managed4kb | Backing::Managed2mb | Backing::ManagedThp => {
            (map(Source::Anonymous)?, Store::Pool)
        }
        Backing::GuestMemfd => {
            let file = File::from(guest_memfd.ok_or(CreateRamError::GuestMemfdMissing)?);
            let metadata = file.metadata().map_err(CreateRamError::GuestMemfdLength)?;
            if metadata.len() < size.bytes() {
                return Err(CreateRamError::GuestMemfdTooShort { len: metadata.len(), size });
            }
            (map(Source::Shared(file.as_fd()))?, Store::GuestMemfd(file))
        }
    })
}

/// What a refused mapping means for `backing`.
fn map_failure(backing: &Backing, size: ByteSize, error: MapError) -> CreateRamError {
    let source = match error {
        MapError::NoAddressSpace(source) => return CreateRamError::NoAddressSpace { size, source },
        MapError::Refused(source) => source,
    };
    if backing.is_hugetlb() && source.raw_os_error() == Some(libc::ENOMEM) {
        // Somebody may have taken the pages since they were counted: count again, for the numbers.
        if let Err(unavailable) = backing.check_host_in(HostFiles::system(), size, None) {
            return unavailable.into();
        }
    }
    CreateRamError::Map { size, backing: backing.clone(), source }
}

/// Gives the advice that makes the RAM what its backing says, before any page of it is there.
fn advise(mapping: &Mapping, backing: &Backing) -> Result<(), CreateRamError> {
    let advice = match backing {
        Backing::Anonymous | Backing::Shmem => Advice::NoHugePages,
        Backing::AnonymousThp | Backing::ShmemThp => Advice::HugePages,
        _ => return Ok(()),
    };
    match mapping.advise(0..mapping.len(), advice) {
        // A kernel without transparent huge pages does not know the advice, and gives none anyway.
        Err(error) if advice == Advice::NoHugePages && error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        result => result.map_err(|source| CreateRamError::Advise { backing: backing.clone(), source }),
    }
}

/// Makes every page of the RAM present.
fn populate(
    mapping: &Mapping,
    backing: &Backing,
    size: ByteSize,
    how: Prefault,
    interrupt: Option<&AtomicBool>,
) -> Result<(), CreateRamError> {
    let advice = if let Backing::File(_) = backing {
        // Writing would make a private copy of every page.
        Advice::PopulateRead
    } else {
        let memory = memory_and_swap()?;
        if size.bytes() > memory {
            return Err(CreateRamError::PrefaultBeyondMemory { size, memory });
        }
        Advice::PopulateWrite
    };
    let populate = |part| mapping.advise(part, advice);
    prefault(mapping.len(), backing.page_size(), how, interrupt, &populate)
}

/// Bytes that the kernel can keep somewhere, in memory or in swap.
fn memory_and_swap() -> Result<u64, Unavailable> {
    let files = HostFiles::system();
    Ok(files.meminfo("MemTotal")?.saturating_add(files.meminfo("SwapTotal")?))
}

/// How the RAM must be populated though nobody asked: where only that can show that its pages will be there.
///
/// The kernel reserves huge pages of the machine, not of a node. With `nodes` to choose from, others may use up the
/// node's pages that were counted, and the guest's touch would end in SIGBUS.
fn needed_prefault(backing: &Backing, nodes: Option<usize>) -> Option<Prefault> {
    let several = nodes.is_some_and(|nodes| nodes > 1);
    if !(backing.is_hugetlb() && several) {
        return None;
    }
    log::info!("populating the guest RAM: only that shows that the NUMA node has its huge pages");
    Some(Prefault { threads: NonZeroUsize::MIN })
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
