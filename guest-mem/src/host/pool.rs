//! The memory file of a pool of frames, and its direct map: the whole file, mapped once and sparse.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use mmu_notifier::PAGE_SIZE;

use super::inject::{Injector, Operation};
use super::mapping::{Advice, MapError, Mapping, Source};
use super::memfd::memfd_unless_injected;
use super::pagemap::{Category, Pagemap};
use super::words::{copy_in, copy_out};
use super::{checked, punch_hole, reserve_huge_pages};
use crate::pool::FrameStore;
use crate::{BLOCK_SIZE, HugePageSize};

/// Which pages the file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageKind {
    /// 4 KiB on shmem.
    Shmem,
    /// On shmem, transparent huge pages where the host allows it.
    ShmemHuge,
    /// 2 MiB on hugetlb.
    Hugetlb,
}

/// Why there is no direct map.
#[derive(Debug)]
pub(crate) enum DirectMapError {
    /// The file could not be made.
    Memfd(io::Error),
    /// It could not be mapped.
    Map(io::Error),
    /// The advice on huge pages was not taken.
    Advise(io::Error),
}

/// A memory file and the direct map of it.
#[derive(Debug)]
pub(crate) struct DirectMap {
    file: File,
    mapping: Mapping,
    kind: PageKind,
    /// Where one sees which blocks are transparent huge pages, if this kernel tells.
    pagemap: Option<Pagemap>,
    injector: Injector,
}

impl DirectMap {
    /// A file called `name` of `len` bytes, a multiple of 2 MiB, without any memory yet.
    pub(crate) fn new(
        name: &CStr,
        len: u64,
        kind: PageKind,
        injector: &Injector,
    ) -> Result<Self, DirectMapError> {
        let huge = (kind == PageKind::Hugetlb).then_some(HugePageSize::Mb2);
        let file = memfd_unless_injected(name, len, huge, injector).map_err(DirectMapError::Memfd)?;
        injector.check(Operation::Map).map_err(DirectMapError::Map)?;
        let mapping =
            Mapping::new(len, BLOCK_SIZE, Source::Sparse(file.as_fd(), 0)).map_err(|error| match error {
                MapError::NoAddressSpace(error) | MapError::Refused(error) => DirectMapError::Map(error),
            })?;
        let advise = |advice| injector.check(Operation::Advise).and_then(|()| mapping.advise(0..len, advice));
        let advised = match kind {
            PageKind::Shmem => match advise(Advice::NoHugePages) {
                // A kernel without transparent huge pages does not know the advice, and gives none anyway.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
                result => result,
            },
            PageKind::ShmemHuge => advise(Advice::HugePages),
            PageKind::Hugetlb => Ok(()),
        };
        advised.map_err(DirectMapError::Advise)?;
        let pagemap = (kind == PageKind::ShmemHuge).then(Pagemap::open).and_then(Result::ok);
        Ok(Self { file, mapping, kind, pagemap, injector: injector.clone() })
    }

    /// A pointer to `len` bytes at `offset`, which the caller says are present.
    fn pointer(&self, offset: u64, len: u64) -> io::Result<*mut u8> {
        self.mapping.pointer(offset, len).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
    }
}

impl FrameStore for DirectMap {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    /// On shmem by a write fault of the direct map: the kernel zeroes the pages, marks them up to date, which
    /// UFFDIO_CONTINUE asks for, and maps them where they will be written next; and it fails where a touch would raise
    /// SIGBUS. fallocate before that would double the calls for nothing, since no size limits this file.
    ///
    /// On hugetlb by fallocate, which alone can say that there is no page, and zeroes the one there is.
    fn populate(&self, bytes: Range<u64>) -> io::Result<()> {
        again_if_interrupted(|| {
            self.injector.check(Operation::Fallocate)?;
            match self.kind {
                PageKind::Hugetlb => allocate(&self.file, &bytes),
                PageKind::Shmem | PageKind::ShmemHuge => {
                    self.mapping.advise(bytes.clone(), Advice::PopulateWrite)
                }
            }
        })
    }

    /// The kernel gives small pages where it has no huge one, and says so nowhere but in a page table, which one before 6.7
    /// does not show.
    fn is_huge(&self, bytes: Range<u64>) -> bool {
        let Some(pagemap) = &self.pagemap else { return true };
        let seen = |mapping: &Mapping, bytes: &Range<u64>| {
            let start = mapping.address() as u64;
            let block = start + bytes.start..start + bytes.end;
            pagemap.first_run(block.clone(), Category::Huge).map_or(true, |huge| huge == block)
        };
        if seen(&self.mapping, &bytes) {
            return true;
        }
        // The direct map may only have small entries left over from small pages, which a new mapping has not.
        let source = Source::Sparse(self.file.as_fd(), bytes.start);
        Mapping::new(BLOCK_SIZE, BLOCK_SIZE, source).is_ok_and(|fresh| {
            fresh.advise(0..PAGE_SIZE, Advice::PopulateRead).is_ok() && seen(&fresh, &(0..BLOCK_SIZE))
        })
    }

    fn punch(&self, bytes: Range<u64>) -> io::Result<()> {
        again_if_interrupted(|| {
            self.injector.check(Operation::Punch)?;
            punch_hole(&self.file, &bytes)
        })
    }

    fn promise(&self, bytes: Range<u64>) -> io::Result<()> {
        match self.kind {
            PageKind::Hugetlb => {
                self.injector.check(Operation::Map)?;
                reserve_huge_pages(&self.file, &bytes)
            }
            PageKind::Shmem | PageKind::ShmemHuge => Ok(()),
        }
    }

    fn zero(&self, bytes: Range<u64>) -> io::Result<()> {
        self.mapping.zero(bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let to = self.pointer(offset, bytes.len() as u64)?;
        // SAFETY: `to` leads to as many bytes of the direct map, which is writable and outlives this call. No Rust
        // reference to its bytes is ever made.
        unsafe { copy_in(to, bytes) };
        Ok(())
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let from = self.pointer(offset, bytes.len() as u64)?;
        // SAFETY: as in `write`.
        unsafe { copy_out(from, bytes) };
        Ok(())
    }

    fn copy(&self, from: Range<u64>, to: u64) -> io::Result<()> {
        let len = from.end - from.start;
        let (from, to) = (self.pointer(from.start, len)?, self.pointer(to, len)?);
        let len = usize::try_from(len).map_err(io::Error::other)?;
        // SAFETY: both lead to `len` bytes of the direct map, which outlives this call; they may overlap.
        unsafe { to.copy_from(from, len) };
        Ok(())
    }
}

/// Allocates the pages of `file` in `bytes`, zeroed; `ENOSPC` if there are too few.
fn allocate(file: &File, bytes: &Range<u64>) -> io::Result<()> {
    let offset = libc::off_t::try_from(bytes.start).map_err(io::Error::other)?;
    let len = libc::off_t::try_from(bytes.end - bytes.start).map_err(io::Error::other)?;
    // SAFETY: the call touches no memory of this process but pages that the file does not have yet.
    checked(unsafe { libc::fallocate(file.as_raw_fd(), 0, offset, len) })
}

fn again_if_interrupted(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
