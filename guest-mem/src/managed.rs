//! Guest RAM whose faults this process resolves: frames of a pool, an [`Mm`], and the threads that serve it.

use std::{fmt, sync::Arc, time::Duration};

use mmu_notifier::AddressRange;

use crate::{
    Backing, ByteSize, FaultAround, FaultTrace, Filler, Mm, MmConfig, RamReport, ServiceConfig,
    create::CreateRamError,
    host::{
        Injector, MapError, Mapping, OpenUserfaultfdError, Operation, RegisterError, Source, Userfaultfd,
    },
    mm::{CreateMmError, MemoryObject, Window},
    name::MappingName,
    pool::{Commitment, CreatePoolError, FramePool, PoolConfig, PoolMemory, Stretch, Watermarks},
    service::Service,
    vma::{HugePolicy, VmaFlags},
};

/// How managed guest RAM is run.
#[derive(Clone)]
pub struct ManagedConfig {
    /// How much is mapped at a fault.
    pub around: FaultAround,
    /// The threads.
    pub service: ServiceConfig,
    /// How much is zeroed ahead.
    pub stock: Stock,
    /// Where the first content comes from; zeros if from nowhere.
    pub filler: Option<Arc<dyn Filler>>,
    /// How long the faults of a page may fail before it is poisoned: the guest stops then, instead of faulting for ever.
    pub patience: Duration,
    /// Whether other RAM may [share](crate::GuestRam::share) it. Its pages then keep their content until they are discarded,
    /// which is from all of them.
    pub shared: bool,
}

impl Default for ManagedConfig {
    /// Zeroed ahead, a sleeping handler, zeros at first, and five seconds of patience.
    fn default() -> Self {
        Self {
            around: FaultAround::default(),
            service: ServiceConfig::default(),
            stock: Stock::default(),
            filler: None,
            patience: Duration::from_secs(5),
            shared: false,
        }
    }
}

/// How much of managed guest RAM is zeroed ahead of its first touch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stock {
    /// All of it, in the background.
    #[default]
    All,
    /// So many blocks of 2 MiB, in the background.
    Blocks(u64),
    /// Nothing: each fault zeroes its own.
    None,
}

/// Why managed guest RAM could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ManagedError {
    /// There is no pool.
    #[error("the pool of frames cannot be made")]
    Pool(#[from] CreatePoolError),
    /// There is no memory manager.
    #[error(transparent)]
    Mm(#[from] CreateMmError),
    /// The faults cannot be had.
    #[error("{0}")]
    Userfaultfd(String, #[source] std::io::Error),
    /// The window cannot be registered.
    #[error("userfaultfd does not take the guest RAM: {0}")]
    Register(String),
    /// There is nothing to share.
    #[error("only managed RAM that was made to be shared can be; make it with ManagedConfig::shared")]
    NotShared,
    /// What shares memory is of another size or backing.
    #[error("RAM that shares memory is as large as the first, and has its backing: {size} of {backing}")]
    Unlike {
        /// The first RAM's size.
        size: ByteSize,
        /// The first RAM's backing.
        backing: Backing,
    },
    /// The threads that resolve faults could not be started.
    #[error("the threads that resolve faults cannot be started")]
    Service(#[source] std::io::Error),
}

/// What stands behind a managed guest RAM.
#[derive(Debug)]
pub(crate) struct Managed {
    // In the order of teardown: the threads, what the window shows, the manager, the descriptor. Closed any earlier, it
    // would leave what is missing to the kernel, which fills it with zeros.
    /// There until the teardown.
    service: Option<Service>,
    window: Arc<Window>,
    mm: Arc<Mm>,
    _uffd: Arc<Userfaultfd>,
}

impl Managed {
    /// Makes RAM of `size` at the guest-physical `range`, and starts to serve its faults.
    pub(crate) fn create(
        backing: &Backing,
        size: ByteSize,
        range: AddressRange,
        name: &MappingName,
        config: &ManagedConfig,
        injector: &Injector,
    ) -> Result<(Arc<Mapping>, Self), CreateRamError> {
        let mm_config = mm_config(backing, range, config);
        mm_config.check().map_err(ManagedError::from)?;
        let pool = FramePool::unless_injected(&pool_config(backing, size, name, config), injector)
            .map_err(ManagedError::from)?;
        let stretch = pool
            .reserve(mm_config.blocks(), Commitment::Promised)
            .map_err(|error| ManagedError::from(CreateMmError::from(error)))?;
        let make = if config.shared { MemoryObject::shared } else { MemoryObject::own };
        let object = make(stretch, config.filler.clone(), mm_config.handlers);
        Self::show(object, backing, size, &mm_config, config.service, injector)
    }

    /// Makes RAM of `size` at the guest-physical `range` that shares the memory of `first`, and starts to serve its faults.
    pub(crate) fn share(
        first: &Self,
        backing: &Backing,
        size: ByteSize,
        range: AddressRange,
        config: &ManagedConfig,
        injector: &Injector,
    ) -> Result<(Arc<Mapping>, Self), CreateRamError> {
        let memory = first.mm.shared_memory().ok_or(ManagedError::NotShared)?;
        let mm_config = mm_config(backing, range, config);
        mm_config.check().map_err(ManagedError::from)?;
        Self::show(memory.into_object(), backing, size, &mm_config, config.service, injector)
    }

    /// Maps and registers a window that shows `object`, and starts to serve its faults.
    fn show(
        object: Arc<MemoryObject>,
        backing: &Backing,
        size: ByteSize,
        config: &MmConfig,
        service: ServiceConfig,
        injector: &Injector,
    ) -> Result<(Arc<Mapping>, Self), CreateRamError> {
        let mapping = Arc::new(map(object.stretch(), backing, size, injector)?);
        let uffd = Arc::new(Userfaultfd::for_guests(injector.clone()).map_err(open_failed)?);
        let window =
            Window::register(Arc::clone(&mapping), Arc::clone(&uffd), *backing == Backing::ManagedThp)
                .map_err(|error: RegisterError| ManagedError::Register(error.to_string()))?;
        let window = Arc::new(window);
        let mm = Mm::new(config, object, Arc::clone(&window) as Arc<_>).map_err(ManagedError::from)?;
        let start = mapping.address() as u64;
        let service = Service::start(Arc::clone(&mm), Arc::clone(&uffd), start, service)
            .map_err(ManagedError::Service)?;
        Ok((mapping, Self { service: Some(service), window, mm, _uffd: uffd }))
    }

    pub(crate) const fn mm(&self) -> &Arc<Mm> {
        &self.mm
    }

    pub(crate) fn take_trace(&self) -> Vec<FaultTrace> {
        self.service.as_ref().map_or_else(Vec::new, Service::take_trace)
    }

    pub(crate) fn replaced_handlers(&self) -> u64 {
        self.service.as_ref().map_or(0, Service::replaced)
    }

    pub(crate) fn report(&self, size: ByteSize) -> RamReport {
        let mapped = self.mm.page_table().mapped();
        let usage = self.mm.stretch().report();
        RamReport {
            guest_bytes: size.bytes(),
            resident_bytes: Some(usage.resident * mmu_notifier::PAGE_SIZE),
            huge_bytes: Some(mapped.huge * crate::BLOCK_SIZE),
        }
    }
}

fn mm_config(backing: &Backing, range: AddressRange, config: &ManagedConfig) -> MmConfig {
    let new = MmConfig::new(range);
    MmConfig {
        around: config.around,
        flags: VmaFlags { huge: huge_policy(backing), ..new.flags },
        patience: config.patience,
        handlers: config.service.handlers.get(),
        ..new
    }
}

impl Drop for Managed {
    /// Views of the RAM may be left, and frames go back with the manager: so the window is emptied in between.
    fn drop(&mut self) {
        drop(self.service.take());
        if let Err(error) = self.window.retire() {
            log::error!(
                "the memory of a guest RAM is kept for as long as somebody has a view of it: {error}"
            );
            // Others get the addresses of its frames when nothing shows them any more.
            let _first = self.window.mapping().keep(Arc::clone(self.mm.object()) as Arc<_>);
        }
    }
}

const fn huge_policy(backing: &Backing) -> HugePolicy {
    match backing {
        Backing::Managed2mb | Backing::ManagedThp => HugePolicy::Always,
        _ => HugePolicy::Never,
    }
}

fn pool_config(backing: &Backing, size: ByteSize, name: &MappingName, config: &ManagedConfig) -> PoolConfig {
    let memory = match backing {
        Backing::Managed2mb => PoolMemory::Hugetlb,
        Backing::ManagedThp => PoolMemory::ShmemHuge,
        _ => PoolMemory::Shmem,
    };
    let blocks = size.bytes().div_ceil(crate::BLOCK_SIZE);
    let capacity = blocks.next_power_of_two() * crate::BLOCK_SIZE;
    let stock = match config.stock {
        Stock::All => Some(Watermarks::fixed(blocks)),
        Stock::Blocks(blocks) => Some(Watermarks::fixed(blocks)),
        Stock::None => None,
    };
    PoolConfig {
        name: name.as_c_str().to_string_lossy().into_owned(),
        stock,
        ..PoolConfig::new(memory, ByteSize::new(capacity).unwrap_or(size))
    }
}

/// Maps the window, where every page faults until it is mapped by the manager.
fn map(
    stretch: &Stretch,
    backing: &Backing,
    size: ByteSize,
    injector: &Injector,
) -> Result<Mapping, CreateRamError> {
    let refused = |source| CreateRamError::Map { size, backing: backing.clone(), source };
    let (fd, offset) = (stretch.pool().fd(), stretch.start().offset());
    let fd = fd.ok_or_else(|| refused(std::io::ErrorKind::Unsupported.into()))?;
    injector.check(Operation::Map).map_err(refused)?;
    Mapping::new(size.bytes(), backing.largest_page(), Source::Sparse(fd, offset)).map_err(
        |error| match error {
            MapError::NoAddressSpace(source) => CreateRamError::NoAddressSpace { size, source },
            MapError::Refused(source) => refused(source),
        },
    )
}

fn open_failed(error: OpenUserfaultfdError) -> ManagedError {
    let message = error.to_string();
    let source = match error {
        OpenUserfaultfdError::Refused { system_call, .. } => system_call,
        OpenUserfaultfdError::Lacks { .. } => std::io::ErrorKind::Unsupported.into(),
        OpenUserfaultfdError::Handshake(source) => source,
    };
    ManagedError::Userfaultfd(message, source)
}

impl fmt::Debug for ManagedConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagedConfig")
            .field("around", &self.around)
            .field("service", &self.service)
            .field("stock", &self.stock)
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}
