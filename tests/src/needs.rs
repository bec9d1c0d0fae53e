//! What a test may need of the host, and how that is found out.

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::PythonPackage;
use guest_mem::{Backing, ByteSize, HostSettings, HugePageSize, MemoryCall};
use vmm::{
    host::managed_faults,
    kvm::{Kvm, Vm},
};

/// Something that not every host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// A `/dev/kvm` that this user may open.
    Kvm,
    /// To be root.
    Root,
    /// So many huge pages of this size, reserved for the test and given back.
    HugePages(HugePageSize, u64),
    /// Transparent huge pages for anonymous memory that asks for them.
    Thp,
    /// A kernel that can give them to shared memory, and the right to switch that on.
    ShmemThp,
    /// A kernel that names anonymous memory.
    AnonVmaName,
    /// A NUMA node 0 with memory.
    NumaNode0,
    /// More memory for the asking than the machine has.
    Overcommit,
    /// A guest_memfd that user space maps.
    GuestMemfd,
    /// A userfaultfd that sees a guest's faults, with what managed RAM needs.
    ManagedFaults,
    /// KVM guests with pages of 1 GiB.
    GigabyteGuestPages,
    /// The kernel and the initrd of the test guest, built.
    Linux,
    /// Debian's kernel, fetched.
    DebianKernel,
    /// A package of PyPI, installed now if need be.
    Python(PythonPackage),
    /// A program of this name.
    Program(&'static str),
}

impl Need {
    /// Whether a test with it changes a setting of the host's, which is one test's at a time.
    pub(crate) const fn changes_the_host(self) -> bool {
        matches!(self, Self::HugePages(..) | Self::ShmemThp)
    }

    /// Whether this host has it.
    ///
    /// # Errors
    /// Why not.
    pub fn check(self) -> Result<(), String> {
        let lacks = |error: &dyn std::error::Error| error.to_string();
        let vm = || {
            let kvm = Kvm::open().map_err(|error| lacks(&error))?;
            Vm::create(&kvm).map_err(|error| lacks(&error))
        };
        match self {
            Self::Kvm => Kvm::open().map(|_| ()).map_err(|error| lacks(&error)),
            Self::Root => nix::unistd::geteuid().is_root().then_some(()).ok_or("needs root".to_owned()),
            Self::HugePages(size, pages) => {
                let settings = HostSettings::lock().map_err(|error| lacks(&error))?;
                settings.with_huge_pages(size, pages).map(|_| ()).map_err(|error| lacks(&error))
            }
            Self::Thp => check_backing(&Backing::AnonymousThp),
            Self::ShmemThp => shmem_thp().map(|_| ()),
            Self::AnonVmaName => MemoryCall::NameAnonymous
                .attempt()
                .map_err(|error| format!("this kernel names no anonymous memory: {error}")),
            // A list like 0-1,4: only node 0 begins with that digit.
            Self::NumaNode0 => {
                check_file("/sys/devices/system/node/has_memory", |nodes| nodes.starts_with('0'))
            }
            Self::Overcommit => check_file("/proc/sys/vm/overcommit_memory", |mode| mode != "2"),
            Self::GuestMemfd => vm()?.check_guest_memfd().map_err(|error| lacks(&error)),
            Self::ManagedFaults => managed_faults().reason.map_or(Ok(()), Err),
            Self::GigabyteGuestPages => vm()?
                .has_gigabyte_pages()
                .then_some(())
                .ok_or("KVM offers its guests no 1 GiB pages".to_owned()),
            Self::Linux => crate::Linux::built().map(|_| ()),
            Self::DebianKernel => crate::debian_kernel().map(|_| ()),
            Self::Python(package) => package.install(),
            Self::Program(name) => Command::new(name)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .map(|_| ())
                .map_err(|error| format!("no program {name}: {error}")),
        }
    }
}

fn check_backing(backing: &Backing) -> Result<(), String> {
    let size = ByteSize::new(2 << 20).ok_or("2 MiB is not zero")?;
    backing.check_host(size).map_err(|unavailable| unavailable.to_string())
}

/// Whether what the kernel's file at `path` says will do.
fn check_file(path: &str, will_do: impl FnOnce(&str) -> bool) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let text = text.trim();
    will_do(text).then_some(()).ok_or_else(|| format!("{path} says {text:?}"))
}

/// Shared memory may have huge pages until the guard is dropped.
fn shmem_thp() -> Result<HostSettings, String> {
    HostSettings::lock()
        .map_err(|error| error.to_string())?
        .set("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise")
        .map_err(|refused| refused.to_string())
}

/// Sets the host up so that `bytes` of `backing` can be had until the guard is dropped. Nobody else changes the
/// host's settings meanwhile.
///
/// # Panics
/// If the host refuses: the test should have said what it needs.
#[must_use]
#[track_caller]
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
pub fn huge_pages(backing: &Backing, bytes: u64) -> Option<HostSettings> {
    if matches!(backing, Backing::ShmemThp | Backing::ManagedThp) {
        return Some(shmem_thp().expect("shared memory can have huge pages"));
    }
    let size = backing.hugetlb()?;
    let settings = HostSettings::lock().expect("the lock of the host's settings");
    Some(settings.with_huge_pages(size, bytes / size.bytes()).expect("huge pages"))
}
