//! From a configuration to a microVM that runs.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use guest_mem::{Backing, ByteSize, ManagedConfig, Prefault};

use super::{
    Handover, MemoryControl,
    running::{Devices, RunningVm},
};
use crate::{
    api::{
        Launch, OperationError, Operations, VmConfig,
        schema::{self, CacheType},
    },
    boot::{BootSource, Protocol},
    interrupt::Interrupt,
    kvm::{CpuFeature, Kvm, OpenKvmError},
    memory::MemoryConfig,
    microvm::{MicroVm, MicroVmConfig, MicroVmError},
    virtio::{
        SharedDevice, VirtioDevice,
        balloon::{Balloon, BalloonConfig, BalloonError},
        block::{Block, Cache, DriveConfig, OpenDiskError},
        net::{Net, NetConfig, OpenTapError},
        rng::Rng,
    },
};

/// How many of the latest faults each handler keeps the times of, for reports of memory.
const TRACED_FAULTS: usize = 1024;

/// Starts microVMs on KVM.
#[derive(Debug)]
pub struct Launcher {
    options: LaunchOptions,
    interrupt: Interrupt,
    handover: Handover,
}

/// What a configuration has no words for.
#[derive(Clone, Debug, Default)]
pub struct LaunchOptions {
    /// What /proc/PID/maps calls the guest.
    pub guest: String,
    /// Exactly so much RAM, rather than the configuration's in MiB.
    pub memory: Option<ByteSize>,
    /// Exactly so many vCPUs, rather than the configuration's.
    pub vcpus: Option<u32>,
    /// What stands for pages of 4 KiB, where the configuration asks for these and names no backing.
    pub backing: Option<Backing>,
    /// Populate RAM before the guest runs.
    pub prefault: Option<Prefault>,
    /// Take RAM from this NUMA node only.
    pub numa_node: Option<u32>,
    /// How managed RAM is run.
    pub managed: ManagedConfig,
    /// CPU features that the guest is not to see.
    pub masked: Vec<CpuFeature>,
    /// How the kernel is entered.
    pub protocol: Protocol,
}

/// Why a microVM does not run. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no KVM.
    #[error(transparent)]
    Kvm(#[from] OpenKvmError),
    /// It could not be made or started.
    #[error(transparent)]
    MicroVm(#[from] MicroVmError),
    /// A drive could not be opened.
    #[error("drive {id:?}")]
    Drive {
        /// Its name.
        id: String,
        /// Why not.
        #[source]
        source: OpenDiskError,
    },
    /// A tap device could not be had.
    #[error("network interface {id:?}")]
    Net {
        /// Its name.
        id: String,
        /// Why not.
        #[source]
        source: OpenTapError,
    },
    /// The balloon is not to be had.
    #[error(transparent)]
    Balloon(#[from] BalloonError),
    /// There is no kernel.
    #[error("there is no kernel to start")]
    NoKernel,
    /// There is less RAM than nothing.
    #[error("{mib} MiB of RAM cannot be had")]
    MemorySize {
        /// What was asked for.
        mib: u64,
    },
}

impl LaunchError {
    /// Whether another configuration would have run on this same host.
    #[must_use]
    pub const fn is_users(&self) -> bool {
        match self {
            Self::Drive { .. }
            | Self::Net { .. }
            | Self::Balloon(BalloonError::TooLarge { .. })
            | Self::NoKernel
            | Self::MemorySize { .. } => true,
            Self::Kvm(_) | Self::MicroVm(_) | Self::Balloon(_) => false,
        }
    }
}

impl Launcher {
    /// Leaves what it starts at `handover`; `interrupt` stops what it makes and what it started.
    #[must_use]
    pub const fn new(options: LaunchOptions, interrupt: Interrupt, handover: Handover) -> Self {
        Self { options, interrupt, handover }
    }

    fn try_launch(&self, config: &VmConfig) -> Result<RunningVm, LaunchError> {
        let source = self.boot_source(config)?;
        let kvm = Kvm::open()?;
        let mut vm = MicroVm::new(&kvm, self.microvm_config(config)?, &self.interrupt)?;
        let memory = Arc::clone(vm.memory());
        let devices = Devices::attach(config, &mut vm)?;
        let running = vm.start(&source)?;
        let handle = running.handle();
        self.handover.give(running);
        Ok(RunningVm { handle, memory: MemoryControl::new(memory), devices })
    }

    fn boot_source(&self, config: &VmConfig) -> Result<BootSource, LaunchError> {
        let source = config.boot_source.as_ref().ok_or(LaunchError::NoKernel)?;
        Ok(BootSource {
            kernel: source.kernel_image_path.clone(),
            initrd: source.initrd_path.clone(),
            command_line: config.command_line(),
            protocol: self.options.protocol,
        })
    }

    fn microvm_config(&self, config: &VmConfig) -> Result<MicroVmConfig, LaunchError> {
        let (options, machine) = (&self.options, &config.machine_config);
        let mib = machine.mem_size_mib;
        let whole = mib.checked_mul(1 << 20).and_then(ByteSize::new);
        let size = options.memory.or(whole).ok_or(LaunchError::MemorySize { mib })?;
        let default = options.backing.clone().filter(|_| machine.asks_for_no_backing());
        let backing = default.unwrap_or_else(|| machine.backing());
        let mut managed = options.managed.clone();
        managed.service.trace = TRACED_FAULTS;
        let memory = MemoryConfig {
            guest: options.guest.clone(),
            prefault: options.prefault,
            numa_node: options.numa_node,
            managed,
            ..MemoryConfig::new(size, backing)
        };
        let masked = options.masked.clone();
        let vcpus = options.vcpus.unwrap_or_else(|| machine.vcpu_count.into());
        Ok(MicroVmConfig { vcpus, masked, ..MicroVmConfig::new(memory) })
    }
}

impl Launch for Launcher {
    fn launch(&mut self, config: &VmConfig) -> Result<Box<dyn Operations>, OperationError> {
        Ok(Box::new(self.try_launch(config).map_err(OperationError::failed)?))
    }
}

impl Devices {
    /// Makes what `config` has, in the order in which the guest finds it.
    fn attach(config: &VmConfig, vm: &mut MicroVm) -> Result<Self, LaunchError> {
        let mut this = Self::default();
        for drive in &config.drives {
            let failed = |source| LaunchError::Drive { id: drive.drive_id.clone(), source };
            let block = shared(vm, Block::new(drive_config(drive)).map_err(failed)?)?;
            this.drives.push((drive.drive_id.clone(), block));
        }
        for interface in &config.network_interfaces {
            let failed = |source| LaunchError::Net { id: interface.iface_id.clone(), source };
            let net = shared(vm, Net::new(net_config(interface)).map_err(failed)?)?;
            this.interfaces.push((interface.iface_id.clone(), net));
        }
        if let Some(balloon) = &config.balloon {
            let balloon = Balloon::new(balloon_config(balloon), vm.memory().bytes())?;
            this.balloon = Some(shared(vm, balloon)?);
        }
        if config.entropy.is_some() {
            this.entropy = Some(shared(vm, Rng::new())?);
        }
        Ok(this)
    }
}

/// Gives `device` to the guest and keeps it.
fn shared<T: VirtioDevice + 'static>(vm: &mut MicroVm, device: T) -> Result<Arc<Mutex<T>>, LaunchError> {
    let device = Arc::new(Mutex::new(device));
    vm.attach(Arc::clone(&device) as SharedDevice)?;
    Ok(device)
}

fn drive_config(drive: &schema::Drive) -> DriveConfig {
    DriveConfig {
        read_only: drive.is_read_only(),
        direct: drive.direct,
        cache: match drive.cache_type {
            CacheType::Unsafe => Cache::Unsafe,
            CacheType::Writeback => Cache::Writeback,
        },
        ..DriveConfig::new(&drive.drive_id, drive.path_on_host.clone().unwrap_or_default())
    }
}

fn net_config(interface: &schema::NetworkInterface) -> NetConfig {
    NetConfig {
        id: interface.iface_id.clone(),
        tap: interface.host_dev_name.clone(),
        mac: interface.guest_mac.map(schema::MacAddress::bytes),
    }
}

fn balloon_config(balloon: &schema::Balloon) -> BalloonConfig {
    let interval = balloon.stats_polling_interval_s;
    BalloonConfig {
        amount_mib: balloon.amount_mib,
        deflate_on_oom: balloon.deflate_on_oom,
        stats_interval: (interval > 0).then(|| Duration::from_secs(interval.into())),
        free_page_reporting: balloon.free_page_reporting,
        free_page_hinting: balloon.free_page_hinting,
    }
}
