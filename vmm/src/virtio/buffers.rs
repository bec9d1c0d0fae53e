//! The buffers of one request: stretches of guest memory in a row, as the kernel's vectored calls take them.
//!
//! They are translated when a request is loaded and used before the next is: nothing here is a translation that
//! outlives its request. The CPU and synchronous system calls reach guest memory through the VM's mapping, where a
//! page that is missing faults and is resolved; only what bypasses that mapping must pin.
#![expect(unsafe_code, reason = "the kernel reads and writes guest memory by address")]

use std::{
    fmt, io,
    marker::PhantomData,
    os::fd::{AsRawFd, BorrowedFd},
};

use guest_mem::GuestMemoryView;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryError, VolatileSlice};

/// How many stretches one vectored call takes (`UIO_MAXIOV`).
const MAX_SEGMENTS: usize = 1024;

/// Stretches of guest memory, in order, that the device may access in one direction, and how much of them has not been
/// consumed yet.
pub struct Buffers<D> {
    /// Keeps mapped what `host` points to.
    memory: GuestMemoryView,
    /// Where they are in this process; each lies in `memory`, and none is empty when it is pushed.
    host: Vec<libc::iovec>,
    /// Where each begins in guest-physical memory; consuming moves it with its host address.
    guest: Vec<u64>,
    /// The first that is not consumed as a whole.
    first: usize,
    /// Bytes not consumed.
    len: usize,
    direction: PhantomData<D>,
}

/// What the device may only read.
pub type ReadBuffers = Buffers<DeviceReadable>;

/// What the device may only write.
pub type WriteBuffers = Buffers<DeviceWritable>;

/// The direction of what the driver sends.
#[derive(Debug)]
pub enum DeviceReadable {}

/// The direction of what the device answers.
#[derive(Debug)]
pub enum DeviceWritable {}

// SAFETY: the pointers lead into guest RAM, which `memory` keeps mapped and any thread may access. There is no value of
// the direction.
unsafe impl<D> Send for Buffers<D> {}

/// The request ended before the bytes that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the buffers of the request are too short")]
pub struct TooShort;

impl<D> Buffers<D> {
    pub(super) const fn new(memory: GuestMemoryView) -> Self {
        Self { memory, host: Vec::new(), guest: Vec::new(), first: 0, len: 0, direction: PhantomData }
    }

    pub(super) fn clear(&mut self) {
        self.host.clear();
        self.guest.clear();
        self.first = 0;
        self.len = 0;
    }

    /// Adds `len` bytes at `address`, if all of them are guest memory.
    pub(super) fn push(&mut self, address: GuestAddress, len: usize) -> Result<(), GuestMemoryError> {
        let mut next = address.0;
        for slice in self.memory.get_slices(address, len) {
            let slice = slice?;
            if self.host.len() == MAX_SEGMENTS {
                return Err(GuestMemoryError::GuestAddressOverflow);
            }
            let base = slice.ptr_guard_mut().as_ptr().cast();
            self.host.push(libc::iovec { iov_base: base, iov_len: slice.len() });
            self.guest.push(next);
            next += slice.len() as u64;
            self.len += slice.len();
        }
        Ok(())
    }

    /// How many bytes have not been consumed.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether everything has been consumed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether what is left begins and ends at multiples of `alignment` bytes in this process, piece by piece.
    #[must_use]
    pub fn is_aligned(&self, alignment: usize) -> bool {
        let aligned = |part: &libc::iovec| {
            part.iov_base.addr().is_multiple_of(alignment) && part.iov_len.is_multiple_of(alignment)
        };
        self.left().iter().all(aligned)
    }

    /// Where what is left lies in guest-physical memory.
    pub fn guest_ranges(&self) -> impl Iterator<Item = (GuestAddress, usize)> + '_ {
        let guest = self.guest.iter().skip(self.first);
        guest.zip(self.left()).map(|(address, host)| (GuestAddress(*address), host.iov_len))
    }

    /// What is left, for a vectored call.
    fn left(&self) -> &[libc::iovec] {
        self.host.get(self.first..).unwrap_or_default()
    }

    /// How many stretches a call takes.
    fn count(&self) -> libc::c_int {
        // Not more than MAX_SEGMENTS.
        libc::c_int::try_from(self.left().len()).unwrap_or(libc::c_int::MAX)
    }

    /// The next `count` bytes, or all that are left, are done with.
    fn consume(&mut self, count: usize) {
        let mut count = count.min(self.len);
        self.len -= count;
        while let (Some(host), Some(guest)) = (self.host.get_mut(self.first), self.guest.get_mut(self.first))
        {
            if count < host.iov_len {
                // Still inside the stretch.
                host.iov_base = host.iov_base.wrapping_byte_add(count);
                host.iov_len -= count;
                *guest += count as u64;
                return;
            }
            count -= host.iov_len;
            self.first += 1;
        }
    }

    /// Drops bytes from the end, so that `len` are left.
    fn truncate(&mut self, len: usize) {
        while self.len > len {
            let Some(last) = self.host.last_mut() else { return };
            let surplus = self.len - len;
            if surplus < last.iov_len {
                last.iov_len -= surplus;
                self.len = len;
                return;
            }
            self.len -= last.iov_len;
            self.host.pop();
            self.guest.pop();
        }
    }

    /// Calls `copy` with each of the next stretches, `len` bytes in all, and their places in those; consumes them.
    fn copy(&mut self, len: usize, mut copy: impl FnMut(&VolatileSlice<'_>, usize)) -> Result<(), TooShort> {
        if len > self.len {
            return Err(TooShort);
        }
        let mut done = 0;
        for host in self.left() {
            let count = host.iov_len.min(len - done);
            // SAFETY: the stretch lies in `memory`, which keeps it mapped for longer than the slice lives; guest
            // memory is only ever accessed as volatile memory.
            let slice = unsafe { VolatileSlice::new(host.iov_base.cast(), count) };
            copy(&slice, done);
            done += count;
            if done == len {
                break;
            }
        }
        self.consume(len);
        Ok(())
    }
}

impl ReadBuffers {
    /// Reads the next bytes of the request.
    ///
    /// # Errors
    /// [`TooShort`]; nothing was read then.
    pub fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), TooShort> {
        self.copy(bytes.len(), |slice, at| {
            slice.copy_to(bytes.get_mut(at..).unwrap_or_default());
        })
    }

    /// `pwritev`: writes all that is left into `file` at `offset`, in bytes.
    ///
    /// # Errors
    /// What the call returned; what had been written until then is consumed.
    pub fn write_to(&mut self, file: BorrowedFd<'_>, mut offset: u64) -> io::Result<()> {
        while self.len > 0 {
            let at = file_offset(offset)?;
            // SAFETY: the stretches lie in memory that is kept mapped, their number is that of the array, and the
            // kernel only reads them. It fails with EFAULT where a page cannot be had.
            let written =
                retry(|| unsafe { libc::pwritev(file.as_raw_fd(), self.left().as_ptr(), self.count(), at) })?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.consume(written);
            offset += written as u64;
        }
        Ok(())
    }

    /// `writev`: hands all that is left to `file` in one piece, as tap devices take a packet.
    ///
    /// # Errors
    /// What the call returned.
    pub fn write_packet(&mut self, file: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: as in `write_to`.
        retry(|| unsafe { libc::writev(file.as_raw_fd(), self.left().as_ptr(), self.count()) })
    }
}

impl WriteBuffers {
    /// Takes the last byte, where block devices put their status, off the end, and says where it is.
    pub fn take_last_byte(&mut self) -> Option<GuestAddress> {
        let (address, len) = self.guest_ranges().last()?;
        self.truncate(self.len - 1);
        Some(GuestAddress(address.0 + len as u64 - 1))
    }

    /// Leaves the next `count` bytes of the answer as they are.
    ///
    /// # Errors
    /// [`TooShort`]; nothing is left out then.
    pub fn skip(&mut self, count: usize) -> Result<(), TooShort> {
        if count > self.len {
            return Err(TooShort);
        }
        self.consume(count);
        Ok(())
    }

    /// Writes the next bytes of the answer.
    ///
    /// # Errors
    /// [`TooShort`]; nothing was written then.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), TooShort> {
        self.copy(bytes.len(), |slice, at| slice.copy_from(bytes.get(at..).unwrap_or_default()))
    }

    /// `preadv`: fills all that is left from `file` at `offset`, in bytes.
    ///
    /// # Errors
    /// What the call returned, or `UnexpectedEof`; what had been filled until then is consumed.
    pub fn read_from(&mut self, file: BorrowedFd<'_>, mut offset: u64) -> io::Result<()> {
        while self.len > 0 {
            let at = file_offset(offset)?;
            // SAFETY: the stretches lie in memory that is kept mapped and that may be written at any time, and their
            // number is that of the array. It fails with EFAULT where a page cannot be had.
            let read =
                retry(|| unsafe { libc::preadv(file.as_raw_fd(), self.left().as_ptr(), self.count(), at) })?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.consume(read);
            offset += read as u64;
        }
        Ok(())
    }

    /// `readv`: fills as much as `file` has in one piece, as tap devices give a packet, and says how much that was.
    /// Consumes nothing.
    ///
    /// # Errors
    /// What the call returned.
    pub fn read_packet(&mut self, file: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: as in `read_from`.
        retry(|| unsafe { libc::readv(file.as_raw_fd(), self.left().as_ptr(), self.count()) })
    }
}

impl<D> fmt::Debug for Buffers<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.guest_ranges()).finish()
    }
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Calls until no signal comes between, and returns how many bytes the call moved.
fn retry(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        let result = call();
        if let Ok(bytes) = usize::try_from(result) {
            return Ok(bytes);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests;
