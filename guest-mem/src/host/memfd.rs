//! Files that exist only in memory.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use super::checked;
use super::inject::{Injector, Operation};
use super::pages::Pages;
use crate::HugePageSize;

/// A memfd called `name` of `size` bytes, on hugetlb if `huge` says so, whose size nobody can change any more.
pub(crate) fn memfd(name: &CStr, size: u64, huge: Option<HugePageSize>) -> io::Result<File> {
    memfd_unless_injected(name, size, huge, &Injector::none())
}

/// The same, unless `injector` has it fail.
pub(super) fn memfd_unless_injected(
    name: &CStr,
    size: u64,
    huge: Option<HugePageSize>,
    injector: &Injector,
) -> io::Result<File> {
    let huge = huge.map_or(0, |size| libc::MFD_HUGETLB | (size.shift() << libc::MFD_HUGE_SHIFT));
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | huge;
    let create = |flags| {
        injector.check(Operation::MemfdCreate)?;
        // SAFETY: the kernel reads the name up to its NUL and keeps a copy.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, so nobody else owns it.
        Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
    };
    // Guest RAM is data. A kernel before 6.3 does not know the flag; a hardened one demands it.
    let file = match create(flags | libc::MFD_NOEXEC_SEAL) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => create(flags)?,
        other => other?,
    };
    injector.check(Operation::Truncate)?;
    file.set_len(size)?;
    // A shorter file would turn the guest's next touch into SIGBUS.
    injector.check(Operation::Seal)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    // SAFETY: F_ADD_SEALS takes an integer and touches no memory.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(file)
}

/// Frees the pages of `file` that lie in `range` as a whole, and zeroes what else it covers; the size stays.
pub(crate) fn punch_hole(file: &File, range: &Range<u64>) -> io::Result<()> {
    let (start, len) = offsets(range)?;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: the call touches no memory of this process but the file's own pages, in which no Rust value lives.
    checked(unsafe { libc::fallocate(file.as_raw_fd(), mode, start, len) })
}

/// Sets huge pages aside again for `range` of a hugetlb `file`; `ENOMEM` if the pool has too few.
///
/// Punching a hole gave up the reservation of its pages. Mapping the hole takes it anew, and it stays with the file
/// when the mapping goes.
pub(crate) fn reserve_huge_pages(file: &File, range: &Range<u64>) -> io::Result<()> {
    let (start, _) = offsets(range)?;
    let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    let file = file.as_fd();
    Pages::map(None, len, libc::PROT_NONE, libc::MAP_SHARED, Some((file, start))).map(drop)
}

/// Bytes of memory that `file` has pages for.
pub(crate) fn allocated_bytes(file: &File) -> io::Result<u64> {
    /// `st_blocks` counts in these, whatever the file's own block size.
    const BLOCK: u64 = 512;
    Ok(file.metadata()?.blocks() * BLOCK)
}

fn offsets(range: &Range<u64>) -> io::Result<(libc::off_t, libc::off_t)> {
    let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let start = libc::off_t::try_from(range.start).map_err(invalid)?;
    let end = libc::off_t::try_from(range.end).map_err(invalid)?;
    Ok((start, end - start))
}
