//! A virtual machine and its memory slots.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use guest_mem::GuestRam;
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MEM_GUEST_MEMFD, kvm_create_guest_memfd, kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
};
use kvm_ioctls::VmFd;

use super::{CpuConfig, Kvm, Stats, StatsError, Vcpu, VcpuError, cpuid, stats};

/// KVM_CAP_GUEST_MEMFD of the kernel's interface.
pub(super) const CAP_GUEST_MEMFD: u32 = 234;
/// KVM_CAP_GUEST_MEMFD_FLAGS: which flags KVM_CREATE_GUEST_MEMFD takes. Not in kvm-bindings 0.14.
pub(super) const CAP_GUEST_MEMFD_FLAGS: u32 = 244;
/// GUEST_MEMFD_FLAG_MMAP: user space may map the file.
const GUEST_MEMFD_FLAG_MMAP: u32 = 1 << 0;
/// GUEST_MEMFD_FLAG_INIT_SHARED: its pages belong to user space and the guest alike from the start.
const GUEST_MEMFD_FLAG_INIT_SHARED: u32 = 1 << 1;

/// How often KVM_CREATE_VM is tried again after EINTR: registering KVM's own notifier takes every lock of this
/// address space, and a signal interrupts that.
const CREATE_VM_TRIES: u32 = 16;

/// A virtual machine. Its guest memory stays mapped as long as it or any of its vCPUs lives.
#[derive(Debug)]
pub struct Vm {
    pub(super) fd: VmFd,
    cpuid: CpuId,
    memory: Arc<SlotMemory>,
}

/// The memory behind a VM's slots. To the kernel a VM lives until its last descriptor is closed, and each vCPU has
/// one: so each vCPU keeps the memory too, or it would run on in what this process has put there since.
#[derive(Debug, Default)]
pub(super) struct SlotMemory {
    /// In the order of the slots' numbers. A leaf in the lock order: held for the ioctl that sets a slot, no more.
    slots: Mutex<Vec<Arc<GuestRam>>>,
}

/// The number of a memory slot, as KVM counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySlot(u32);

/// Why a virtual machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateVmError {
    /// KVM_CREATE_VM was interrupted by signals again and again.
    #[error("KVM_CREATE_VM was interrupted by a signal {CREATE_VM_TRIES} times in a row")]
    Interrupted(#[source] io::Error),
    /// KVM_CREATE_VM failed.
    #[error("KVM_CREATE_VM failed")]
    Create(#[source] io::Error),
    /// KVM did not tell which CPU features its guests may have.
    #[error("KVM_GET_SUPPORTED_CPUID failed")]
    Cpuid(#[source] io::Error),
}

/// Why something could not be done to a virtual machine.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// A memory slot was refused.
    #[error("KVM refused memory slot {slot} of {bytes:#x} bytes at guest address {guest_base:#x}")]
    Slot {
        /// The number of the slot.
        slot: u32,
        /// Where it was to start, guest-physical.
        guest_base: u64,
        /// How many bytes it was to hold.
        bytes: u64,
        /// What KVM_SET_USER_MEMORY_REGION returned.
        #[source]
        source: io::Error,
    },
    /// This KVM has no guest_memfd that user space could map.
    #[error(
        "this KVM offers no guest_memfd that user space can map (KVM_CAP_GUEST_MEMFD_FLAGS says {flags:#x})"
    )]
    NoMappableGuestMemfd {
        /// What KVM_CHECK_EXTENSION said of KVM_CAP_GUEST_MEMFD_FLAGS.
        flags: u32,
    },
    /// A guest_memfd could not be made.
    #[error("KVM_CREATE_GUEST_MEMFD of {bytes:#x} bytes failed")]
    GuestMemfd {
        /// How many bytes it was to hold.
        bytes: u64,
        /// What the ioctl returned.
        #[source]
        source: io::Error,
    },
    /// More vCPUs than this KVM gives a VM.
    #[error("{wanted} vCPUs are more than this KVM gives one VM: at most {limit}")]
    TooManyVcpus {
        /// How many were asked for.
        wanted: usize,
        /// KVM_CAP_MAX_VCPUS.
        limit: usize,
    },
    /// The interrupt controllers, or an event of theirs, were refused.
    #[error("{call} failed")]
    Irqchip {
        /// The ioctl.
        call: &'static str,
        /// What it returned.
        #[source]
        source: io::Error,
    },
    /// A vCPU could not be made.
    #[error("cannot make vCPU {id}")]
    Vcpu {
        /// The vCPU's number.
        id: u32,
        /// What failed.
        #[source]
        source: VcpuError,
    },
}

impl Vm {
    /// Makes a virtual machine with no memory and no vCPU.
    ///
    /// # Errors
    /// [`CreateVmError`].
    pub fn create(kvm: &Kvm) -> Result<Self, CreateVmError> {
        let mut tries = 0;
        let fd = loop {
            tries += 1;
            match kvm.fd.create_vm() {
                Ok(fd) => break fd,
                Err(errno) if errno.errno() == libc::EINTR && tries < CREATE_VM_TRIES => {}
                Err(errno) if errno.errno() == libc::EINTR => {
                    return Err(CreateVmError::Interrupted(errno.into()));
                }
                Err(errno) => return Err(CreateVmError::Create(errno.into())),
            }
        };
        let cpuid = kvm
            .fd
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|errno| CreateVmError::Cpuid(errno.into()))?;
        Ok(Self { fd, cpuid, memory: Arc::default() })
    }

    /// Whether KVM offers its guests pages of 1 GiB: bit 26 of EDX in CPUID leaf 0x8000_0001.
    #[must_use]
    pub fn has_gigabyte_pages(&self) -> bool {
        let leaf = self.cpuid.as_slice().iter().find(|entry| entry.function == 0x8000_0001);
        leaf.is_some_and(|leaf| leaf.edx & (1 << 26) != 0)
    }

    /// Whether this VM can be given a `guest_memfd` that user space maps.
    ///
    /// # Errors
    /// [`VmError::NoMappableGuestMemfd`] with what KVM said of it.
    pub fn check_guest_memfd(&self) -> Result<(), VmError> {
        let wanted = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
        let flags = self.fd.check_extension_raw(CAP_GUEST_MEMFD_FLAGS.into());
        match u32::try_from(flags) {
            Ok(flags) if flags & wanted == wanted => Ok(()),
            Ok(flags) => Err(VmError::NoMappableGuestMemfd { flags }),
            Err(_) => Err(VmError::NoMappableGuestMemfd { flags: 0 }),
        }
    }

    /// Makes a `guest_memfd` of `bytes` bytes, a multiple of 4096, that user space can map.
    ///
    /// # Errors
    /// [`VmError::NoMappableGuestMemfd`] or [`VmError::GuestMemfd`].
    pub fn create_guest_memfd(&self, bytes: u64) -> Result<OwnedFd, VmError> {
        self.check_guest_memfd()?;
        let request = kvm_create_guest_memfd {
            size: bytes,
            flags: (GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED).into(),
            ..kvm_create_guest_memfd::default()
        };
        let fd = self
            .fd
            .create_guest_memfd(request)
            .map_err(|errno| VmError::GuestMemfd { bytes, source: errno.into() })?;
        // SAFETY: the ioctl has just returned this descriptor, so it is open and nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Puts all of `ram` into the next free memory slot, at its own guest address.
    ///
    /// # Errors
    /// [`VmError::Slot`].
    pub fn add_memory(&self, ram: Arc<GuestRam>) -> Result<MemorySlot, VmError> {
        let mut slots = self.memory.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        let range = ram.range();
        let region = kvm_userspace_memory_region2 {
            slot,
            guest_phys_addr: range.start(),
            memory_size: range.len(),
            userspace_addr: ram.host_address().get(),
            ..kvm_userspace_memory_region2::default()
        };
        let result = if let Some(file) = ram.guest_memfd() {
            let region = kvm_userspace_memory_region2 {
                flags: KVM_MEM_GUEST_MEMFD,
                guest_memfd: file.as_raw_fd().cast_unsigned(),
                ..region
            };
            // SAFETY: the host range is all of `ram`'s mapping, which `self.memory` keeps as long as this VM or any of
            // its vCPUs lives: nobody else can run the guest. KVM itself refuses slots that overlap.
            unsafe { self.fd.set_user_memory_region2(region) }
        } else {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.guest_phys_addr,
                memory_size: region.memory_size,
                userspace_addr: region.userspace_addr,
            };
            // SAFETY: as above.
            unsafe { self.fd.set_user_memory_region(region) }
        };
        result.map_err(|errno| VmError::Slot {
            slot,
            guest_base: range.start(),
            bytes: range.len(),
            source: errno.into(),
        })?;
        slots.push(ram);
        Ok(MemorySlot(slot))
    }

    /// Makes vCPU number `id` with the CPU features that KVM supports.
    ///
    /// # Errors
    /// [`VmError::TooManyVcpus`] or [`VmError::Vcpu`].
    pub fn create_vcpu(&self, id: u32) -> Result<Vcpu, VmError> {
        self.create_vcpu_of(id, &self.cpuid)
    }

    /// Makes vCPU number `id` of those that `config` speaks of, for a kernel: with CPUID to match, and a local APIC that
    /// takes the PICs' interrupts and NMIs, as a PC's firmware leaves it. The [irqchip](Self::create_irqchip) is there.
    ///
    /// # Errors
    /// [`VmError::TooManyVcpus`] or [`VmError::Vcpu`].
    pub fn create_kernel_vcpu(&self, id: u32, config: &CpuConfig) -> Result<Vcpu, VmError> {
        let deadline = self.fd.check_extension(kvm_ioctls::Cap::TscDeadlineTimer);
        let entries = cpuid::for_vcpu(self.cpuid.as_slice(), config, id, deadline);
        let refused = |source| VmError::Vcpu { id, source };
        let cpuid = CpuId::from_entries(&entries).map_err(|_| {
            let source = io::Error::from(io::ErrorKind::OutOfMemory);
            refused(VcpuError { call: "KVM_SET_CPUID2", source })
        })?;
        let vcpu = self.create_vcpu_of(id, &cpuid)?;
        vcpu.set_up_for_kernel().map_err(refused)?;
        Ok(vcpu)
    }

    fn create_vcpu_of(&self, id: u32, cpuid: &CpuId) -> Result<Vcpu, VmError> {
        let limit = self.fd.check_extension_int(kvm_ioctls::Cap::MaxVcpus);
        let limit = usize::try_from(limit).unwrap_or(0);
        if id as usize >= limit {
            return Err(VmError::TooManyVcpus { wanted: id as usize + 1, limit });
        }
        let memory = Arc::clone(&self.memory);
        Vcpu::create(&self.fd, id, cpuid, memory).map_err(|source| VmError::Vcpu { id, source })
    }

    /// The VM's own binary statistics.
    ///
    /// # Errors
    /// [`StatsError`].
    pub fn stats(&self) -> Result<Stats, StatsError> {
        stats::open(&self.fd)
    }
}
