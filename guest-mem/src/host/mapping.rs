//! One piece of guest RAM in this process's address space.

use std::any::Any;
use std::ffi::{CStr, c_void};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use vm_memory::VolatileSlice;

use super::checked;
use super::pages::{GapError, MoveError, PAGE, PLAIN, Pages, RESIDENCY_BATCH, residency};

/// Readable and writable memory at an aligned address, between two guard pages unless it is [sparse](Source::Sparse);
/// dropping it unmaps all of that, unless a part of the memory was lost ([`without_file`](Self::without_file)).
///
/// Guests, devices and this process read and write it at the same time, so no Rust reference into it is ever made:
/// what it hands out is raw or a [`VolatileSlice`] that borrows it.
#[derive(Debug)]
pub(crate) struct Mapping {
    pages: Pages,
    /// Part of the addresses may be somebody else's, or show what was never written there: nothing is handed out any more,
    /// and nothing is unmapped. Set once, for good; it says nothing about other memory, so it may be relaxed.
    lost: AtomicBool,
    /// The NUMA node that its pages come from, if it is bound to one.
    node: Option<u32>,
    _guards: Option<[Pages; 2]>,
    /// What is not to go before the pages do: dropped after them.
    kept: OnceLock<Arc<dyn Any + Send + Sync>>,
}

/// Where the pages of a mapping come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    /// Zero pages, private. Nothing is set aside for them: guest RAM is overcommitted on purpose, and most of it may
    /// never be touched.
    Anonymous,
    /// The content of a file, private. Nothing is set aside for the copies that writes make.
    PrivateFile(BorrowedFd<'a>),
    /// Huge pages of a hugetlb file that has none yet, private; all of them are reserved.
    PrivateHugetlb(BorrowedFd<'a>),
    /// The pages of a file, shared; on hugetlb all of them are reserved.
    Shared(BorrowedFd<'a>),
    /// The pages of a file from this offset on, in bytes, shared; on hugetlb none is reserved.
    Sparse(BorrowedFd<'a>, u64),
}

/// What to do with the pages of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// Never map it by transparent huge pages.
    NoHugePages,
    /// Map it by transparent huge pages where possible.
    HugePages,
    /// Make every page present for reading.
    PopulateRead,
    /// Make every page present for writing.
    PopulateWrite,
    /// Drop the private pages; on hugetlb, those that lie in the range as a whole.
    DontNeed,
}

/// Why nothing was mapped.
#[derive(Debug)]
pub(crate) enum MapError {
    /// The address space has no gap of that size.
    NoAddressSpace(io::Error),
    /// The kernel refused the mapping itself.
    Refused(io::Error),
}

impl Mapping {
    /// Maps `len` bytes of `source` at an address that is a multiple of `align`, a power of two of at least 4 KiB.
    pub(crate) fn new(len: u64, align: u64, source: Source<'_>) -> Result<Self, MapError> {
        let too_large = |_| MapError::NoAddressSpace(io::Error::from_raw_os_error(libc::ENOMEM));
        let len = usize::try_from(len).map_err(too_large)?;
        let align = usize::try_from(align).map_err(too_large)?;
        let (flags, file) = match source {
            Source::Anonymous => (PLAIN, None),
            Source::PrivateFile(file) => (libc::MAP_PRIVATE | libc::MAP_NORESERVE, Some((file, 0))),
            Source::PrivateHugetlb(file) => (libc::MAP_PRIVATE, Some((file, 0))),
            Source::Shared(file) => (libc::MAP_SHARED, Some((file, 0))),
            Source::Sparse(file, offset) => {
                let offset = libc::off_t::try_from(offset).map_err(too_large)?;
                (libc::MAP_SHARED | libc::MAP_NORESERVE, Some((file, offset)))
            }
        };
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let mapped = Pages::map_in_gap(len, align, |gap| Pages::map(Some(gap), len, prot, flags, file));
        match mapped {
            Ok((pages, guards)) => {
                // What is sparse belongs to a pool: its offset and its userfaultfd keep it from merging with a neighbour.
                let guards = (!matches!(source, Source::Sparse(..))).then_some(guards);
                Ok(Self {
                    pages,
                    lost: AtomicBool::new(false),
                    node: None,
                    _guards: guards,
                    kept: OnceLock::new(),
                })
            }
            Err(GapError::NoGap(error)) => Err(MapError::NoAddressSpace(error)),
            Err(GapError::Map(error)) => Err(MapError::Refused(error)),
        }
    }

    /// The address of the first byte.
    pub(crate) fn address(&self) -> usize {
        self.pages.start().addr().get()
    }

    /// The number of bytes.
    pub(crate) fn len(&self) -> u64 {
        self.pages.len() as u64
    }

    /// A pointer to the byte at `offset`; `None` unless `len` bytes from there lie in the mapping, or if a part of the
    /// mapping was lost.
    pub(crate) fn pointer(&self, offset: u64, len: u64) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        // Whoever uses the pointer has to show that the mapping outlives it; making it needs no unsafe code.
        let offset = usize::try_from(offset).ok()?;
        (end <= self.len() && !self.lost.load(Ordering::Relaxed))
            .then(|| self.pages.start().as_ptr().wrapping_add(offset))
    }

    /// Access to `len` bytes at `offset`; `None` as for [`pointer`](Self::pointer).
    pub(crate) fn slice(&self, offset: u64, len: usize) -> Option<VolatileSlice<'_>> {
        let start = self.pointer(offset, len as u64)?;
        // SAFETY: the bytes lie in the mapping, which is readable, writable and borrowed for as long as the slice
        // lives; nothing else than volatile access is made to them. Should the mapping be lost while the slice lives,
        // they may be another's: only the end of the process could prevent that, and `without_file` says it.
        Some(unsafe { VolatileSlice::new(start, len) })
    }

    /// Gives `advice` on the bytes `range`, which lie in the mapping and are a multiple of the page size.
    pub(crate) fn advise(&self, range: Range<u64>, advice: Advice) -> io::Result<()> {
        let (start, len) = self.span(range)?;
        let advice = match advice {
            Advice::NoHugePages => libc::MADV_NOHUGEPAGE,
            Advice::HugePages => libc::MADV_HUGEPAGE,
            Advice::PopulateRead => libc::MADV_POPULATE_READ,
            Advice::PopulateWrite => libc::MADV_POPULATE_WRITE,
            Advice::DontNeed => libc::MADV_DONTNEED,
        };
        // SAFETY: the bytes lie in this mapping, where no Rust value lives; what the advice does to their content
        // is what any guest might do.
        checked(unsafe { libc::madvise(start, len, advice) })
    }

    /// Calls `work` while the bytes `range` are plain memory and not the pages of `file` that this shared mapping has
    /// there; when it has returned, they are the file's again.
    ///
    /// Who touches the range meanwhile succeeds, and allocates nothing in the file. What is written there is lost.
    /// The range is a multiple of the file's page size. It stays a mapping of its own from then on, as the kernel
    /// merges no mappings of hugetlb, until it is [united](Self::unite) with others.
    ///
    /// # Errors
    /// Unless it is [`MoveError::Lost`], there is what was there, or plain memory until a later call succeeds: zeros if
    /// `work` was not called. After it the whole mapping is of no use any more: what it handed out before may lead to memory
    /// that is not its own, it hands out nothing else, and dropping it leaves all its addresses as they are.
    pub(crate) fn without_file<T>(
        &self,
        file: &File,
        range: Range<u64>,
        work: impl FnOnce() -> T,
    ) -> Result<T, MoveError> {
        let (start, len) = self.span(range.clone())?;
        let offset = start.addr() - self.address();
        // Both are there before the first is moved: no want of memory can stop the way back.
        let stand_in = Pages::map(None, len, libc::PROT_READ | libc::PROT_WRITE, PLAIN, None)?;
        let files = self.again(file, range)?;
        self.replace(stand_in, offset)?;
        let result = work();
        self.replace(files, offset)?;
        Ok(result)
    }

    /// Makes one mapping of the bytes `range`, which may be many: all of them the pages that `file` has at the same offset.
    ///
    /// Who touches the range meanwhile finds the same pages. They are mapped by the faults of later touches.
    ///
    /// # Errors
    /// After [`MoveError::Refused`] nothing has changed. Anything else is [`MoveError::Lost`], as for
    /// [`without_file`](Self::without_file): where there were pages of the file, there is something else.
    pub(crate) fn unite(&self, file: &File, range: Range<u64>) -> Result<(), MoveError> {
        let (start, _) = self.span(range.clone())?;
        let files = self.again(file, range)?;
        self.replace(files, start.addr() - self.address()).map_err(|error| match error {
            MoveError::Emptied(error) => {
                self.lost.store(true, Ordering::Relaxed);
                MoveError::Lost(error)
            }
            error => error,
        })
    }

    /// The bytes `range` of `file`, mapped elsewhere as they are here.
    fn again(&self, file: &File, range: Range<u64>) -> io::Result<Pages> {
        let offset = libc::off_t::try_from(range.start).map_err(io::Error::other)?;
        let (_, len) = self.span(range)?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // The reservation is the file's, so this mapping needs none of its own; asking for one could fail.
        let shared = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let files = Pages::map(None, len, prot, shared, Some((file.as_fd(), offset)))?;
        if let Some(node) = self.node {
            bind(&files, node)?;
        }
        Ok(files)
    }

    /// Keeps `what` until nothing is mapped here any more; false if something else is kept already.
    pub(crate) fn keep(&self, what: Arc<dyn Any + Send + Sync>) -> bool {
        self.kept.set(what).is_ok()
    }

    /// Puts plain memory, zeros, in the place of all that is mapped here, in one step for whoever touches it meanwhile.
    /// Who waits for a userfaultfd there has to be woken.
    ///
    /// # Errors
    /// [`MoveError::Refused`] and [`MoveError::Lost`], as for [`without_file`](Self::without_file).
    pub(crate) fn become_plain(&self) -> Result<(), MoveError> {
        let (_, len) = self.span(0..self.len())?;
        let plain = Pages::map(None, len, libc::PROT_READ | libc::PROT_WRITE, PLAIN, None)?;
        match self.replace(plain, 0) {
            // Plain memory as well.
            Err(MoveError::Emptied(_)) => Ok(()),
            result => result,
        }
    }

    /// Puts `pages` at `offset` of the mapping.
    fn replace(&self, pages: Pages, offset: usize) -> Result<(), MoveError> {
        let result = pages.move_over(&self.pages, offset);
        if let Err(MoveError::Lost(_)) = result {
            self.lost.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Lets pages of the whole mapping come from NUMA node `node` only, those that are not there yet.
    pub(crate) fn bind(&mut self, node: u32) -> io::Result<()> {
        bind(&self.pages, node)?;
        self.node = Some(node);
        Ok(())
    }

    /// Names the mapping in /proc/PID/maps; only anonymous memory takes a name this way.
    pub(crate) fn name(&self, name: &CStr) -> io::Result<()> {
        let (start, len) = self.span(0..self.len())?;
        // SAFETY: the kernel reads the name up to its NUL and keeps a copy; the mapping's bytes stay as they are.
        checked(unsafe {
            libc::prctl(
                libc::PR_SET_VMA,
                libc::PR_SET_VMA_ANON_NAME as libc::c_ulong,
                start,
                len,
                name.as_ptr(),
            )
        })
    }

    /// How many bytes of the mapping are in memory, in 4 KiB pages: in the page cache for a file, and in this
    /// process's page table for hugetlb and anonymous memory.
    pub(crate) fn resident_bytes(&self, range: Range<u64>) -> io::Result<u64> {
        let (start, len) = self.span(range)?;
        let mut pages = 0;
        for offset in (0..len).step_by(RESIDENCY_BATCH * PAGE) {
            pages += residency(start.wrapping_byte_add(offset), len - offset)?;
        }
        Ok((pages * PAGE) as u64)
    }

    /// Writes zeros over the bytes `range`.
    pub(crate) fn zero(&self, range: Range<u64>) -> io::Result<()> {
        let (start, len) = self.span(range)?;
        // SAFETY: the bytes lie in this mapping, which is writable, and no Rust reference to them exists. A guest
        // may write there too; which of the two writes stays is its own affair.
        unsafe { start.write_bytes(0, len) };
        Ok(())
    }

    /// The start and length of `range`, as system calls want them; `EINVAL` if it is not in the mapping, or a part of
    /// the mapping was lost.
    fn span(&self, range: Range<u64>) -> io::Result<(*mut c_void, usize)> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let len = range.end.checked_sub(range.start).ok_or_else(invalid)?;
        let start = self.pointer(range.start, len).ok_or_else(invalid)?;
        let len = usize::try_from(len).map_err(|_| invalid())?;
        Ok((start.cast(), len))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if *self.lost.get_mut() {
            log::error!(
                "guest RAM was lost: what is mapped in {:#x} bytes at {:p} stays, as some may be another's",
                self.pages.len(),
                self.pages.start()
            );
            self.pages.leak();
        }
    }
}

fn bind(pages: &Pages, node: u32) -> io::Result<()> {
    const MPOL_BIND: libc::c_ulong = 2;
    const NO_FLAGS: libc::c_ulong = 0;
    let word = node / u64::BITS;
    let mut mask = vec![0_u64; word as usize + 1];
    mask[word as usize] = 1 << (node % u64::BITS);
    // The kernel takes one bit less than it is told of.
    let bits = (word + 1) * u64::BITS + 1;
    // SAFETY: the kernel reads `bits - 1` bits of the mask, which is all of it; the policy of memory changes no
    // byte of it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            pages.start().as_ptr(),
            pages.len(),
            MPOL_BIND,
            mask.as_ptr(),
            bits,
            NO_FLAGS,
        )
    };
    checked(if result == 0 { 0 } else { -1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_mapping_hands_out_nothing_and_unmaps_nothing() {
        let mapping = Mapping::new(4096, 4096, Source::Anonymous).unwrap();
        let address = mapping.pointer(0, 4096).unwrap();

        mapping.lost.store(true, Ordering::Relaxed);

        assert!(mapping.pointer(0, 4096).is_none());
        assert!(mapping.slice(0, 4096).is_none());
        assert!(mapping.advise(0..4096, Advice::DontNeed).is_err());
        drop(mapping);
        residency(address.cast(), 4096).unwrap();
    }
}
