//! What kind of microVM is wanted, and why it may not be had.

use std::io;

use crate::{
    boot::{BootError, MAX_VCPUS},
    kvm::{CpuConfig, CpuFeature, CreateVmError, Kvm, VcpuError, VmError},
    memory::{CreateMemoryError, MemoryConfig},
};

/// What kind of microVM is wanted. Devices are [attached](super::MicroVm::attach) to it, and what it boots is told at its
/// [start](super::MicroVm::start).
#[derive(Clone, Debug)]
pub struct MicroVmConfig {
    /// Its RAM.
    pub memory: MemoryConfig,
    /// How many vCPUs.
    pub vcpus: u32,
    /// CPU features that the guest is not to see.
    pub masked: Vec<CpuFeature>,
}

/// Why a microVM could not be made or started. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum MicroVmError {
    /// More vCPUs than KVM gives one VM, or than a guest can be told of.
    #[error("{wanted} vCPUs are more than one VM can have here: use at most {most}")]
    TooManyVcpus {
        /// How many were asked for.
        wanted: u32,
        /// How many there can be.
        most: u32,
    },
    /// No vCPU at all.
    #[error("a microVM needs at least one vCPU")]
    NoVcpu,
    /// KVM_CREATE_VM or what follows it failed.
    #[error("cannot make a VM")]
    CreateVm(#[from] CreateVmError),
    /// Its RAM could not be made.
    #[error(transparent)]
    Memory(#[from] CreateMemoryError),
    /// A memory slot, a vCPU, an interrupt controller or an event was refused.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// What was to be booted cannot be.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The state of the first vCPU was refused.
    #[error("cannot set the state of the first vCPU")]
    EntryState(#[source] VcpuError),
    /// All interrupts have devices.
    #[error("a microVM has room for {most} devices and no more")]
    TooManyDevices {
        /// How many there can be.
        most: usize,
    },
    /// A device has no registers or no events.
    #[error("cannot attach a virtio device")]
    Device(#[source] io::Error),
    /// A thread, an event or a signal handler could not be made.
    #[error("cannot set up the microVM's threads and events")]
    Threads(#[source] io::Error),
}

impl MicroVmConfig {
    /// A microVM with one vCPU that shows all that KVM supports.
    #[must_use]
    pub const fn new(memory: MemoryConfig) -> Self {
        Self { memory, vcpus: 1, masked: Vec::new() }
    }

    pub(super) fn cpus(&self) -> CpuConfig {
        CpuConfig { count: self.vcpus, masked: self.masked.clone() }
    }

    /// Whether so many vCPUs can be had.
    pub(super) fn check_vcpus(&self, kvm: &Kvm) -> Result<(), MicroVmError> {
        let most = u32::try_from(kvm.max_vcpus()).unwrap_or(u32::MAX).min(MAX_VCPUS);
        match self.vcpus {
            0 => Err(MicroVmError::NoVcpu),
            wanted if wanted > most => Err(MicroVmError::TooManyVcpus { wanted, most }),
            _ => Ok(()),
        }
    }
}
