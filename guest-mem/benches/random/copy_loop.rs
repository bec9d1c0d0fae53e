//! The yardstick: anonymous memory, one thread, and for each event one UFFDIO_COPY of a page of zeros, which also wakes.
#![expect(unsafe_code, reason = "the system calls of the yardstick")]

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    sync::Arc,
    thread::{self, JoinHandle},
};

use super::PAGE;

/// `_IOWR(0xAA, number, [u64; N])`.
const fn request<const N: usize>(number: u64) -> u64 {
    3 << 30 | (size_of::<[u64; N]>() as u64) << 16 | 0xAA << 8 | number
}
const API: u64 = request::<3>(0x3F);
const REGISTER: u64 = request::<4>(0x00);
const COPY: u64 = request::<5>(0x03);
/// UFFD_API, and UFFDIO_REGISTER_MODE_MISSING.
const VERSION: u64 = 0xAA;
const MISSING: u64 = 1;

/// Memory that a thread fills.
pub(crate) struct CopyLoop {
    address: usize,
    len: usize,
    uffd: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl CopyLoop {
    pub(crate) fn start(bytes: usize, spins: bool) -> io::Result<Self> {
        // The page behind is touched to end the thread.
        let len = bytes + PAGE;
        // A reader of one that is not non-blocking sleeps in the read: one system call less than poll and read.
        let mode = if spins { libc::O_NONBLOCK } else { 0 };
        // SAFETY: no memory is involved.
        let uffd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | mode) };
        let uffd = i32::try_from(checked(uffd)?).map_err(io::Error::other)?;
        // SAFETY: it is new, and nobody else's.
        let uffd = Arc::new(unsafe { OwnedFd::from_raw_fd(uffd) });
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: it goes where nothing is.
        let address = unsafe { libc::mmap(ptr::null_mut(), len, access, kind, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = address.expose_provenance();
        let mut this = Self { address, len, uffd, thread: None };
        // Large pages would be split at once: each fault fills one page.
        // SAFETY: the memory is this function's.
        unsafe { libc::madvise(ptr::with_exposed_provenance_mut(address), len, libc::MADV_NOHUGEPAGE) };
        ioctl(&this.uffd, API, &mut [VERSION, 0, 0])?;
        ioctl(&this.uffd, REGISTER, &mut [address as u64, len as u64, MISSING, 0])?;
        let uffd = Arc::clone(&this.uffd);
        this.thread = Some(thread::spawn(move || serve(&uffd, (address + bytes) as u64)));
        Ok(this)
    }

    pub(crate) const fn address(&self) -> usize {
        self.address
    }
}

/// Fills pages until it has filled `last`.
fn serve(uffd: &OwnedFd, last: u64) {
    let zeros = vec![0_u8; PAGE];
    loop {
        let mut event = [0_u64; 4];
        let fd = uffd.as_raw_fd();
        // SAFETY: the kernel writes at most the 32 bytes of an event.
        let read = unsafe { libc::read(fd, event.as_mut_ptr().cast(), size_of_val(&event)) };
        if read == size_of_val(&event).cast_signed() {
            let page = event[2] & !(PAGE as u64 - 1);
            let filled = ioctl(uffd, COPY, &mut [page, zeros.as_ptr().addr() as u64, PAGE as u64, 0, 0]);
            assert!(filled.is_ok(), "{filled:?}");
            if page == last {
                return;
            }
        }
    }
}

fn ioctl<const N: usize>(uffd: &OwnedFd, request: u64, argument: &mut [u64; N]) -> io::Result<()> {
    // SAFETY: each request reads and writes so many numbers, and its memory is this module's.
    checked(unsafe { libc::ioctl(uffd.as_raw_fd(), request, argument.as_mut_ptr()) }.into()).map(drop)
}

fn checked(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

impl Drop for CopyLoop {
    fn drop(&mut self) {
        let last = ptr::with_exposed_provenance_mut::<u8>(self.address + self.len - PAGE);
        // SAFETY: it is this struct's, and nobody else touches that page.
        unsafe { last.write_volatile(1) };
        if let Some(thread) = self.thread.take() {
            // If it panicked, it has said so.
            let _ = thread.join();
        }
        // SAFETY: nobody touches it any more.
        unsafe { libc::munmap(ptr::with_exposed_provenance_mut(self.address), self.len) };
    }
}
