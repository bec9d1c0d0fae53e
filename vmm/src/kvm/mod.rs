//! KVM: the only module of the workspace that issues its ioctls.
//!
//! Everything above it speaks of virtual machines, memory slots, vCPUs, exits and statistics, and holds no file
//! descriptor of KVM's.
#![expect(
    unsafe_code,
    reason = "memory slots hand host addresses to the kernel, and a few ioctls have no safe wrapper yet"
)]

mod capabilities;
mod cpu_features;
mod cpuid;
mod entry;
mod exit;
mod guest_io;
mod irqchip;
mod poison;
mod second_stage;
mod stats;
mod stop;
mod vcpu;
mod vm;

pub use capabilities::{Capability, capabilities};
pub use cpu_features::{CpuFeature, ParseCpuFeatureError};
pub use cpuid::CpuConfig;
pub use entry::{EntryState, KernelEntry};
pub use exit::{EMULATION_FAILURE, Exit, InstructionBytes, Registers};
pub use guest_io::GuestIo;
pub use poison::handle_poison;
pub use second_stage::{SecondStage, Vendor};
pub use stats::{Base, Descriptor, Kind, Snapshot, Stats, StatsError, Unit};
pub use stop::{StopHandle, StopSignal};
pub use vcpu::{Vcpu, VcpuError};
pub use vm::{CreateVmError, MemorySlot, Vm, VmError};

use std::io;

/// The API version that every KVM of the last decade and a half reports.
const API_VERSION: i32 = 12;

/// An open `/dev/kvm`.
#[derive(Debug)]
pub struct Kvm {
    fd: kvm_ioctls::Kvm,
}

/// Why `/dev/kvm` could not be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenKvmError {
    /// There is no `/dev/kvm`.
    #[error(
        "there is no /dev/kvm: load KVM with `modprobe kvm_intel` or `modprobe kvm_amd`, switch virtualization on in \
         the firmware, or, in a virtual machine, ask its host for nested virtualization"
    )]
    Missing(#[source] io::Error),
    /// `/dev/kvm` is there, but not for this user.
    #[error(
        "no permission to open /dev/kvm: run as root, or let this user in with `setfacl -m u:$USER:rw /dev/kvm` or, where the \
         device has a group, `usermod -aG kvm $USER` and a new login"
    )]
    Permission(#[source] io::Error),
    /// `/dev/kvm` is something else, or the kernel refused for another reason.
    #[error("cannot open /dev/kvm")]
    Open(#[source] io::Error),
    /// The kernel speaks another KVM API.
    #[error("this kernel speaks KVM API version {found}, and underlay needs {API_VERSION}")]
    Version {
        /// What KVM_GET_API_VERSION returned.
        found: i32,
    },
}

impl Kvm {
    /// Opens `/dev/kvm` and checks that it speaks the API that underlay was written for.
    ///
    /// # Errors
    /// [`OpenKvmError`], whose message says what the user can do about it.
    pub fn open() -> Result<Self, OpenKvmError> {
        let fd = kvm_ioctls::Kvm::new().map_err(|errno| {
            let error = io::Error::from(errno);
            match error.kind() {
                io::ErrorKind::NotFound => OpenKvmError::Missing(error),
                io::ErrorKind::PermissionDenied => OpenKvmError::Permission(error),
                _ => match errno.errno() {
                    libc::ENODEV | libc::ENXIO => OpenKvmError::Missing(error),
                    _ => OpenKvmError::Open(error),
                },
            }
        })?;
        match fd.get_api_version() {
            API_VERSION => Ok(Self { fd }),
            found => Err(OpenKvmError::Version { found }),
        }
    }

    /// What KVM_CHECK_EXTENSION says of capability number `capability`: zero where it is absent.
    #[must_use]
    pub fn check_extension(&self, capability: u32) -> u32 {
        u32::try_from(self.fd.check_extension_raw(capability.into())).unwrap_or(0)
    }

    /// The largest number of vCPUs that one VM may have.
    #[must_use]
    pub fn max_vcpus(&self) -> usize {
        self.fd.get_max_vcpus()
    }
}
