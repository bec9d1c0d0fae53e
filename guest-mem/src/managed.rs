//! Guest RAM whose faults this process resolves: frames of a pool, an [`Mm`], and the threads that serve it.

use std::{fmt, sync::Arc, time::Duration};

use mmu_notifier::AddressRange;

use crate::{
    Backing, ByteSize, FaultAround, FaultTrace, Filler, Mm, MmConfig, RamReport, ServiceConfig,
    create::CreateRamError,
    host::{
        Injector, MapError, Mapping, OpenUserfaultfdError, Operation, RegisterError, Source, Userfaultfd,
    },
    mm::{CreateMmError, Window},
    name::MappingName,
    pool::{Commitment, CreatePoolError, FramePool, PoolConfig, PoolMemory, Watermarks},
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
    /// The threads that resolve faults could not be started.
    #[error("the threads that resolve faults cannot be started")]
    Service(#[source] std::io::Error),
}

/// What stands behind a managed guest RAM.
#[derive(Debug)]
pub(crate) struct Managed {
    // In the order of teardown: the threads, the manager, the descriptor. Closed any earlier, it would leave what is
    // missing to the kernel, which fills it with zeros.
    service: Service,
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
        let mut mm_config = MmConfig::new(range);
        mm_config.around = config.around;
        mm_config.flags = VmaFlags { huge: huge_policy(backing), ..mm_config.flags };
        mm_config.filler.clone_from(&config.filler);
        mm_config.patience = config.patience;
        mm_config.handlers = config.service.handlers.get();
        mm_config.check().map_err(ManagedError::from)?;
        let pool = FramePool::unless_injected(&pool_config(backing, size, name, config), injector)
            .map_err(ManagedError::from)?;
        let stretch = pool
            .reserve(mm_config.blocks(), Commitment::Promised)
            .map_err(|error| ManagedError::from(CreateMmError::from(error)))?;
        let mapping = Arc::new(map(&pool, stretch.start().offset(), backing, size, injector)?);
        let uffd = Arc::new(Userfaultfd::for_guests(injector.clone()).map_err(open_failed)?);
        let window =
            Window::register(Arc::clone(&mapping), Arc::clone(&uffd), *backing == Backing::ManagedThp)
                .map_err(|error: RegisterError| ManagedError::Register(error.to_string()))?;
        let mm = Mm::new(mm_config, stretch, Arc::new(window)).map_err(ManagedError::from)?;
        let start = mapping.address() as u64;
        let service = Service::start(Arc::clone(&mm), Arc::clone(&uffd), start, config.service)
            .map_err(ManagedError::Service)?;
        Ok((mapping, Self { service, mm, _uffd: uffd }))
    }

    pub(crate) const fn mm(&self) -> &Arc<Mm> {
        &self.mm
    }

    pub(crate) fn take_trace(&self) -> Vec<FaultTrace> {
        self.service.take_trace()
    }

    pub(crate) fn replaced_handlers(&self) -> u64 {
        self.service.replaced()
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
    pool: &FramePool,
    offset: u64,
    backing: &Backing,
    size: ByteSize,
    injector: &Injector,
) -> Result<Mapping, CreateRamError> {
    let refused = |source| CreateRamError::Map { size, backing: backing.clone(), source };
    let fd = pool.fd().ok_or_else(|| refused(std::io::ErrorKind::Unsupported.into()))?;
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
            .finish_non_exhaustive()
    }
}
