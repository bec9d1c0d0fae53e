//! Stretches of this process's address space, unmapped when they are let go of.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use super::checked;

/// How often a gap that another thread took first is looked for again.
const ATTEMPTS: usize = 16;
/// Bytes in a page, the smallest unit of mapping.
pub(super) const PAGE: usize = 4096;
/// Bytes of the inaccessible page on either side of a gap.
const GUARD: usize = PAGE;
/// How many pages' residency is asked for at a time.
pub(super) const RESIDENCY_BATCH: usize = 4096;
/// Zero pages for which nothing is set aside.
pub(super) const PLAIN: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// The one owner of the mappings in `[start, start + len)`; dropping it unmaps them.
#[derive(Debug)]
pub(super) struct Pages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the struct only says which addresses it owns; an address means the same on every thread.
unsafe impl Send for Pages {}
// SAFETY: as above; a shared reference gives nothing but the two numbers.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps `len` bytes where the kernel likes, or exactly at `at` if nothing is there yet.
    ///
    /// Never replaces a mapping: `EEXIST` if there is one at `at`.
    pub(super) fn map(
        at: Option<NonNull<u8>>,
        len: usize,
        prot: libc::c_int,
        flags: libc::c_int,
        file: Option<(BorrowedFd<'_>, libc::off_t)>,
    ) -> io::Result<Self> {
        let hint = at.map_or(std::ptr::null_mut(), |at| at.as_ptr().cast());
        let flags = flags | at.map_or(0, |_| libc::MAP_FIXED_NOREPLACE);
        let (fd, offset) = file.map_or((-1, 0), |(fd, offset)| (fd.as_raw_fd(), offset));
        // SAFETY: without MAP_FIXED, and with MAP_FIXED_NOREPLACE, a new mapping touches no existing one; a kernel
        // before 4.17 takes the latter for a hint, which is as harmless and is found out below.
        let start = unsafe { libc::mmap(hint, len, prot, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let pages = Self { start, len };
        match at {
            Some(at) if at != start => Err(io::Error::from_raw_os_error(libc::EEXIST)),
            _ => Ok(pages),
        }
    }

    /// Calls `map` with the start of a gap of `len` bytes aligned to `align`, a power of two, until it finds the gap
    /// still empty; gives back what it mapped and the guards on both sides.
    ///
    /// The guards are inaccessible pages. They keep the kernel from merging the new mapping with a neighbour, which
    /// would make /proc/PID/smaps speak of both as one.
    pub(super) fn map_in_gap(
        len: usize,
        align: usize,
        mut map: impl FnMut(NonNull<u8>) -> io::Result<Self>,
    ) -> Result<(Self, [Self; 2]), GapError> {
        let mut attempt = 0;
        loop {
            let (gap, guards) = Self::find_gap(len, align).map_err(GapError::NoGap)?;
            match map(gap) {
                Ok(pages) => return Ok((pages, guards)),
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                Err(error) => return Err(GapError::Map(error)),
            }
        }
    }

    /// Finds a gap by reserving more than enough, and leaves it empty between its two guards.
    ///
    /// Mapping over the reservation (`MAP_FIXED`) would spare the retries, but kernels before 6.12 unmap first and fail
    /// later: then nobody knows who owns the addresses.
    fn find_gap(len: usize, align: usize) -> io::Result<(NonNull<u8>, [Self; 2])> {
        let whole = len
            .checked_add(align)
            .and_then(|sum| sum.checked_add(2 * GUARD))
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let reservation = Self::map(None, whole, libc::PROT_NONE, PLAIN, None)?;

        let address = reservation.start.addr().get();
        let skipped = (address + GUARD).next_multiple_of(align) - GUARD - address;
        let (_slack, rest) = reservation.split_at(skipped);
        let (below, rest) = rest.split_at(GUARD);
        let (gap, rest) = rest.split_at(len);
        let (above, _slack) = rest.split_at(GUARD);
        Ok((gap.start, [below, above]))
    }

    /// The first `len` bytes, and the others; `len` is a multiple of the page size, and at most the length.
    fn split_at(self, len: usize) -> (Self, Self) {
        debug_assert!(len <= self.len && len.is_multiple_of(GUARD));
        let whole = std::mem::ManuallyDrop::new(self);
        // SAFETY: `len` is at most the length of the mapped stretch, so the sum is in it or one past its end.
        let middle = unsafe { whole.start.add(len) };
        let first = Self { start: whole.start, len };
        let second = Self { start: middle, len: whole.len - len };
        (first, second)
    }

    /// Puts these pages at `offset` of `target`, in the place of what is mapped there.
    ///
    /// Whoever touches that place meanwhile finds what was there before or these pages, and never nothing. Both are
    /// multiples of the larger page size of the two, and the pages end within `target`: `EINVAL` otherwise.
    ///
    /// # Errors
    /// The kernel takes away what is there before it finds out whether it can move these pages. If it cannot then, the
    /// place is empty for an instant, and gets plain zero pages: [`MoveError::Emptied`].
    pub(super) fn move_over(self, target: &Self, offset: usize) -> Result<(), MoveError> {
        let invalid = || MoveError::Refused(io::Error::from_raw_os_error(libc::EINVAL));
        let end = offset.checked_add(self.len).ok_or_else(invalid)?;
        if end > target.len || self.len == 0 {
            return Err(invalid());
        }
        // SAFETY: the sum is less than the length of the stretch that `target` owns.
        let place = unsafe { target.start.add(offset) };
        let (from, flags) = (self.start.as_ptr(), libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED);
        // SAFETY: the old addresses are this struct's alone, and nobody was given a pointer into them. The new ones
        // are `target`'s, and the kernel replaces them under the write lock of the address space; no Rust reference
        // to their bytes exists, as that is so for every mapping of guest RAM. A failure may leave them unmapped:
        // `refill` sees to that.
        let moved = unsafe { libc::mremap(from.cast(), self.len, self.len, flags, place.as_ptr()) };
        if moved == libc::MAP_FAILED {
            return Err(Self::refill(place, self.len, io::Error::last_os_error()));
        }
        // Nothing is left at the old addresses, and the new ones are `target`'s to unmap.
        std::mem::forget(self);
        Ok(())
    }

    /// Puts plain memory into the `len` bytes at `place` if the move that failed with `error` left them empty, and says
    /// what is there now.
    ///
    /// A move of one mapping takes all of them away or none. So if a part of them is empty and a part is not, somebody else has come
    /// in between. That all of them are there is taken to mean that nothing happened: mappings of others that fill
    /// the place to the last page within that instant are not told from the old one.
    fn refill(place: NonNull<u8>, len: usize, error: io::Error) -> MoveError {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        match Self::map(Some(place), len, prot, PLAIN, None) {
            Ok(filled) => {
                // Whoever owned what was here owns this.
                std::mem::forget(filled);
                MoveError::Emptied(error)
            }
            Err(_) if is_mapped(place, len) => MoveError::Refused(error),
            Err(_) => MoveError::Lost(error),
        }
    }

    /// Gives up the addresses as they are: nothing is unmapped.
    pub(super) fn leak(&mut self) {
        self.len = 0;
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

/// Whether every page of the `len` bytes at `start` is mapped by somebody.
fn is_mapped(start: NonNull<u8>, len: usize) -> bool {
    (0..len).step_by(RESIDENCY_BATCH * PAGE).all(|offset| {
        let here = start.as_ptr().wrapping_add(offset);
        residency(here.cast(), len - offset).is_ok()
    })
}

/// How many of the first `RESIDENCY_BATCH` pages of the `len` bytes at `start` are in memory; `ENOMEM` if one of those
/// is not mapped.
pub(super) fn residency(start: *mut c_void, len: usize) -> io::Result<usize> {
    let mut batch = [0_u8; RESIDENCY_BATCH];
    let bytes = len.min(batch.len() * PAGE);
    // SAFETY: the kernel writes one byte for each page of `bytes`, and the batch has one for each; it reads no memory
    // at `start`.
    checked(unsafe { libc::mincore(start, bytes, batch.as_mut_ptr()) })?;
    let answers = &batch[..bytes.div_ceil(PAGE)];
    Ok(answers.iter().filter(|&answer| answer & 1 != 0).count())
}

/// Why pages were not put in the place of others.
#[derive(Debug)]
pub(crate) enum MoveError {
    /// The kernel refused; what was there still is.
    Refused(io::Error),
    /// The kernel refused; plain zero pages are there now.
    Emptied(io::Error),
    /// The kernel refused, and the place is no longer the target's: it is empty and could not be filled, or somebody else has
    /// mapped there.
    Lost(io::Error),
}

impl From<io::Error> for MoveError {
    fn from(error: io::Error) -> Self {
        Self::Refused(error)
    }
}

/// Why nothing could be mapped at an aligned address.
#[derive(Debug)]
pub(super) enum GapError {
    /// The address space has no such gap.
    NoGap(io::Error),
    /// There was a gap, but the kernel refused to map there.
    Map(io::Error),
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        // SAFETY: this struct is the one owner of the stretch, so no other Rust value lives in it, and whoever was
        // given a pointer into it holds a borrow or an `Arc` of the owner.
        let result = unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        if result != 0 {
            let error = io::Error::last_os_error();
            log::error!("cannot unmap {:#x} bytes at {:p}: {error}", self.len, self.start);
        }
    }
}

#[cfg(test)]
mod tests;
