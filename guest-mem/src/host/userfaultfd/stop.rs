//! A request to stop that wakes threads which wait for faults.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::super::inject::{Injector, Operation};

/// Once asked for, asked for to all who wait, for good (an eventfd that nobody reads).
#[derive(Debug)]
pub(crate) struct StopEvent {
    fd: OwnedFd,
}

impl StopEvent {
    /// One that nobody has asked for.
    ///
    /// # Errors
    /// What eventfd returned: this process or the system has too many descriptors open, or no memory.
    pub(crate) fn new(injector: &Injector) -> io::Result<Self> {
        injector.check(Operation::EventFd)?;
        // SAFETY: the call takes two integers; it makes a descriptor and touches no memory.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, so nobody else owns it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Asks for it; wakes everybody who waits, and nobody waits any more. To ask again changes nothing.
    pub(crate) fn ask(&self) {
        // SAFETY: the call takes two integers and touches no memory. It can only fail when the counter is full, and then
        // the event is readable too.
        unsafe { libc::eventfd_write(self.fd.as_raw_fd(), 1) };
    }
}

impl AsRawFd for StopEvent {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
