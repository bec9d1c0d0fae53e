//! The requests of the kernel's userfaultfd interface, laid out as the kernel has them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mmu_notifier::AddressRange;

use crate::host::checked;

/// UFFD_FEATURE_PAGEFAULT_FLAG_WP: write-protection.
pub(super) const FEATURE_WP: u64 = 1 << 0;
/// UFFD_FEATURE_MISSING_HUGETLBFS.
pub(super) const FEATURE_MISSING_HUGETLBFS: u64 = 1 << 4;
/// UFFD_FEATURE_MISSING_SHMEM.
pub(super) const FEATURE_MISSING_SHMEM: u64 = 1 << 5;
/// UFFD_FEATURE_MINOR_HUGETLBFS.
pub(super) const FEATURE_MINOR_HUGETLBFS: u64 = 1 << 9;
/// UFFD_FEATURE_MINOR_SHMEM.
pub(super) const FEATURE_MINOR_SHMEM: u64 = 1 << 10;
/// UFFD_FEATURE_EXACT_ADDRESS: events tell the address within the page.
pub(super) const FEATURE_EXACT_ADDRESS: u64 = 1 << 11;
/// UFFD_FEATURE_WP_HUGETLBFS_SHMEM: write-protection of more than anonymous memory.
pub(super) const FEATURE_WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
/// UFFD_FEATURE_POISON.
pub(super) const FEATURE_POISON: u64 = 1 << 14;

/// UFFD_API: the one version of the interface there is.
const API: u64 = 0xaa;
/// The modes of UFFDIO_REGISTER: MISSING, WP and MINOR.
const REGISTER_MODES: u64 = 1 << 0 | 1 << 1 | 1 << 2;

/// The mode that leaves waiters asleep, of every request but UFFDIO_WRITEPROTECT.
pub(super) const DONT_WAKE: u64 = 1 << 0;
/// The mode of UFFDIO_CONTINUE that installs write-protected entries.
pub(super) const INSTALL_PROTECTED: u64 = 1 << 1;
/// The mode of UFFDIO_WRITEPROTECT that protects; it never wakes anybody.
pub(super) const PROTECT: u64 = 1 << 0;
/// The mode of UFFDIO_WRITEPROTECT that leaves waiters asleep.
pub(super) const UNPROTECT_DONT_WAKE: u64 = 1 << 1;

/// What one request reads and writes.
///
/// # Safety
/// `CODE` takes a pointer to this very layout. It does nothing to memory but what this struct, made by any of its
/// functions, says, and that leaves every Rust value alone: it changes which faults of a [`Mapping`] are reported, or
/// the pages of memory that is registered.
///
/// [`Mapping`]: super::Mapping
pub(super) unsafe trait Request {
    /// The number of the request.
    const CODE: libc::Ioctl;
}

/// Makes `request` of `fd`.
pub(super) fn call<R: Request>(fd: &OwnedFd, request: &mut R) -> io::Result<()> {
    // The number holds the size of what it points to.
    const { assert!((R::CODE >> 16 & 0x3fff) as usize == size_of::<R>(), "the layout is the kernel's") };
    // SAFETY: `Request` promises that the kernel reads and writes one `R` there, and what else it does.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), R::CODE, std::ptr::from_mut(request)) })
}

/// `struct uffdio_api`.
#[repr(C)]
pub(super) struct Handshake {
    api: u64,
    pub(super) features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
pub(super) struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_range` of UFFDIO_UNREGISTER.
#[repr(C)]
pub(super) struct Unregister {
    start: u64,
    len: u64,
}

/// `struct uffdio_range` of UFFDIO_WAKE.
#[repr(C)]
pub(super) struct Wake {
    start: u64,
    len: u64,
}

/// `struct uffdio_writeprotect`.
#[repr(C)]
pub(super) struct WriteProtect {
    start: u64,
    len: u64,
    mode: u64,
}

/// `struct uffdio_continue` and `uffdio_poison`: the number of the request is `0xaa00 + NUMBER`.
#[repr(C)]
pub(super) struct Fill<const NUMBER: u8> {
    start: u64,
    len: u64,
    mode: u64,
    pub(super) done: i64,
}

/// UFFDIO_CONTINUE.
pub(super) type Continue = Fill<7>;
/// UFFDIO_POISON.
pub(super) type Poison = Fill<8>;

impl Handshake {
    pub(super) const fn new(features: u64) -> Self {
        Self { api: API, features, ioctls: 0 }
    }
}

impl Register {
    /// For `len` bytes at `start` of a mapping.
    pub(super) const fn new(start: u64, len: u64) -> Self {
        Self { start, len, mode: REGISTER_MODES, ioctls: 0 }
    }
}

impl Unregister {
    pub(super) const fn new(start: u64, len: u64) -> Self {
        Self { start, len }
    }
}

impl Wake {
    pub(super) const fn new(range: AddressRange) -> Self {
        Self { start: range.start(), len: range.len() }
    }
}

impl WriteProtect {
    pub(super) const fn new(range: AddressRange, mode: u64) -> Self {
        Self { start: range.start(), len: range.len(), mode }
    }
}

impl<const NUMBER: u8> Fill<NUMBER> {
    pub(super) const fn new(range: AddressRange, mode: u64) -> Self {
        Self { start: range.start(), len: range.len(), mode, done: 0 }
    }
}

// SAFETY: `Handshake` is `uffdio_api`; the request touches no memory.
unsafe impl Request for Handshake {
    const CODE: libc::Ioctl = 0xc018_aa3f;
}
// SAFETY: `Register` is `uffdio_register`; its range is a mapping's, by the one who makes it, `Userfaultfd::register`.
unsafe impl Request for Register {
    const CODE: libc::Ioctl = 0xc020_aa00;
}
// SAFETY: `Unregister` is `uffdio_range`; the kernel refuses what is not registered, and changes no page.
unsafe impl Request for Unregister {
    const CODE: libc::Ioctl = 0x8010_aa01;
}
// SAFETY: `Wake` is `uffdio_range`; waking changes no memory.
unsafe impl Request for Wake {
    const CODE: libc::Ioctl = 0x8010_aa02;
}
// SAFETY: `WriteProtect` is `uffdio_writeprotect`; the kernel refuses what is not registered.
unsafe impl Request for WriteProtect {
    const CODE: libc::Ioctl = 0xc018_aa06;
}
// SAFETY: both structs are a range, a mode and what was done; the kernel refuses what is not registered.
unsafe impl<const NUMBER: u8> Request for Fill<NUMBER> {
    const CODE: libc::Ioctl = 0xc020_aa00 + NUMBER as libc::Ioctl;
}
