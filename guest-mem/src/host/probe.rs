//! Memory system calls that older kernels lack, each made once on memory of its own.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::checked;
use super::mapping::{Advice, MapError, Mapping, Source};
use crate::backing::BASE_PAGE;

/// Bytes that one entry of the second-lowest page-table level maps.
const PMD_PAGE: u64 = 2 << 20;
/// PAGEMAP_SCAN of the kernel's interface.
const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610;
/// PAGE_IS_PRESENT of the kernel's interface.
const PAGE_IS_PRESENT: u64 = 1 << 3;

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct ScanRequest {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// Asks PAGEMAP_SCAN which of two pages is present, where only the first is.
pub(crate) fn pagemap_scan() -> io::Result<()> {
    let pages = map(2 * BASE_PAGE)?;
    pages.zero(0..BASE_PAGE)?;
    let pagemap = File::open("/proc/self/pagemap")?;

    let mut region = PageRegion::default();
    let start = pages.address() as u64;
    let mut request = ScanRequest {
        size: size_of::<ScanRequest>() as u64,
        start,
        end: start + pages.len(),
        vec: (&raw mut region).expose_provenance() as u64,
        vec_len: 1,
        category_mask: PAGE_IS_PRESENT,
        return_mask: PAGE_IS_PRESENT,
        ..ScanRequest::default()
    };
    // SAFETY: the request reads and writes one `pm_scan_arg`, whose layout `ScanRequest` has, and writes at most
    // `vec_len` regions, of which there is one, at `vec`. Its flags are none, so it changes no page.
    let regions = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut request) };
    if regions < 0 {
        return Err(io::Error::last_os_error());
    }
    if regions == 1 && (region.start, region.end) == (start, start + BASE_PAGE) {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the kernel did not find the one page that is present",
        ))
    }
}

/// Collapses 2 MiB, of which one page is present, into a huge page.
pub(crate) fn collapse() -> io::Result<()> {
    let pages = map(PMD_PAGE)?;
    pages.zero(0..BASE_PAGE)?;
    let len = usize::try_from(PMD_PAGE).map_err(io::Error::other)?;
    let start = pages.pointer(0, PMD_PAGE).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: the bytes lie in this mapping, where no Rust value lives; collapsing them keeps their content.
    checked(unsafe { libc::madvise(start.cast(), len, libc::MADV_COLLAPSE) })
}

/// Populates one page for writing.
pub(crate) fn populate_write() -> io::Result<()> {
    map(BASE_PAGE)?.advise(0..BASE_PAGE, Advice::PopulateWrite)
}

/// Names one page of anonymous memory.
pub(crate) fn name_anonymous() -> io::Result<()> {
    map(BASE_PAGE)?.name(c"underlay:probe")
}

fn map(len: u64) -> io::Result<Mapping> {
    Mapping::new(len, PMD_PAGE, Source::Anonymous).map_err(|error| match error {
        MapError::NoAddressSpace(error) | MapError::Refused(error) => error,
    })
}
