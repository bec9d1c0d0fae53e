//! Descriptors of userfaultfd.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::checked;
use crate::UserfaultfdWay;

/// USERFAULTFD_IOC_NEW of the kernel's interface: a descriptor from `/dev/userfaultfd`.
const IOC_NEW: libc::Ioctl = 0xaa00;
/// UFFDIO_API of the kernel's interface: the handshake that every descriptor starts with.
const IOC_API: libc::Ioctl = 0xc018_aa3f;
/// UFFD_API: the one version of the interface there is.
const API: u64 = 0xaa;
/// UFFD_USER_MODE_ONLY of the system call.
const USER_MODE_ONLY: libc::c_int = 1;

/// `struct uffdio_api`.
#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// A userfaultfd before its handshake.
#[derive(Debug)]
pub(crate) struct Userfaultfd {
    fd: OwnedFd,
}

impl Userfaultfd {
    /// Makes a descriptor by `way`, close-on-exec and non-blocking.
    pub(crate) fn open(way: UserfaultfdWay) -> io::Result<Self> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        let fd = match way {
            UserfaultfdWay::Device => {
                let device = OpenOptions::new().read(true).write(true).open("/dev/userfaultfd")?;
                // SAFETY: the request takes flags and no pointer; it makes a descriptor and touches no memory.
                made(unsafe { libc::ioctl(device.as_raw_fd(), IOC_NEW, flags) }.into())?
            }
            UserfaultfdWay::SystemCall => system_call(flags)?,
            UserfaultfdWay::UserModeOnly => system_call(flags | USER_MODE_ONLY)?,
        };
        // SAFETY: the kernel has just made this descriptor, so nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// Shakes hands without asking for any feature, and returns the bits of all those that the kernel has.
    pub(crate) fn offered_features(self) -> io::Result<u64> {
        let mut api = UffdioApi { api: API, features: 0, ioctls: 0 };
        // SAFETY: the request reads and writes one `uffdio_api`, whose layout `UffdioApi` has.
        checked(unsafe { libc::ioctl(self.fd.as_raw_fd(), IOC_API, &raw mut api) })?;
        Ok(api.features)
    }
}

fn system_call(flags: libc::c_int) -> io::Result<RawFd> {
    // SAFETY: the call takes flags and no pointer; it makes a descriptor and touches no memory.
    made(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })
}

/// The descriptor that a system call made, if it did not return -1.
fn made(result: libc::c_long) -> io::Result<RawFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}
