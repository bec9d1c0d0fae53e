//! What kind of machine is wanted, how far its making has come, and why it may fail.

use std::{io, num::NonZeroUsize, sync::Arc};

use guest_mem::{Backing, ByteSize, CreateRamError, GuestRam, ManagedConfig};

use crate::{
    driver::{GuestPage, LayoutError},
    kvm::{CreateVmError, StatsError, VcpuError, VmError},
};

/// What kind of machine is wanted.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// What /proc/PID/maps calls its memory.
    pub name: String,
    /// How much RAM.
    pub size: ByteSize,
    /// What backs the RAM.
    pub backing: Backing,
    /// Populate the host's pages before the guest runs, with so many threads.
    pub prefault: Option<NonZeroUsize>,
    /// Take the RAM from this NUMA node only.
    pub numa_node: Option<u32>,
    /// How the RAM is run, if its backing is managed.
    pub managed: ManagedConfig,
    /// Whose memory the RAM [shares](GuestRam::share): that of another machine, which runs meanwhile.
    pub shares: Option<Arc<GuestRam>>,
    /// The size of the pages with which the guest maps its RAM.
    pub guest_page: GuestPage,
    /// How many vCPUs.
    pub vcpus: u32,
    /// The host's CPUs for the vCPU threads, in turn; empty leaves them to the scheduler.
    pub pin: Vec<usize>,
    /// How many samples each vCPU has room for.
    pub samples_per_vcpu: u64,
}

impl MachineConfig {
    /// A machine called `name` with one vCPU and room for a histogram; its guest maps RAM in pages of 2 MiB.
    #[must_use]
    pub fn new(name: &str, size: ByteSize, backing: Backing) -> Self {
        Self {
            name: name.to_owned(),
            size,
            backing,
            prefault: None,
            numa_node: None,
            managed: ManagedConfig::default(),
            shares: None,
            guest_page: GuestPage::M2,
            vcpus: 1,
            pin: Vec::new(),
            samples_per_vcpu: 0,
        }
    }
}

/// How far the making of a machine has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// KVM has made the VM.
    VmMade,
    /// RAM and the control slot are mapped, and populated if that was asked for.
    MemoryMade,
    /// Both are memory slots of the VM.
    SlotsSet,
    /// Page tables and code are in place.
    GuestLoaded,
    /// Every vCPU is in its entry state and has its thread.
    VcpusReady,
}

/// Why a machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// It has no place in guest-physical memory.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// KVM_CREATE_VM or what follows it failed.
    #[error("cannot make a VM")]
    CreateVm(#[from] CreateVmError),
    /// A memory slot or a vCPU was refused.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// The RAM could not be made.
    #[error("cannot make the guest's RAM")]
    Ram(#[source] CreateRamError),
    /// The memory for page tables and samples could not be made.
    #[error("cannot make the guest's page tables and mailboxes")]
    Control(#[source] CreateRamError),
    /// KVM's guests cannot have 1 GiB pages on this processor.
    #[error("KVM offers its guests no 1 GiB pages on this processor; use --guest-page 2m")]
    NoGigabytePages,
    /// The guest's code or tables could not be written.
    #[error("cannot write to the guest's memory")]
    Load(#[source] vm_memory::GuestMemoryError),
    /// The state of a vCPU was refused.
    #[error("cannot set the state of vCPU {id}")]
    EntryState {
        /// The vCPU's number.
        id: u32,
        /// What was refused.
        #[source]
        source: VcpuError,
    },
    /// KVM's statistics could not be opened.
    #[error(transparent)]
    Stats(#[from] StatsError),
    /// A thread, an event or a signal handler could not be made.
    #[error("cannot set up the machine's threads")]
    Threads(#[source] io::Error),
}
