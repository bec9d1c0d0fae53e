//! Memory system calls that older kernels lack, each made once on memory of its own.

use std::io;

use super::checked;
use super::mapping::{Advice, MapError, Mapping, Source};
use super::pagemap::{Category, Pagemap};
use crate::backing::BASE_PAGE;

/// Bytes that one entry of the second-lowest page-table level maps.
const PMD_PAGE: u64 = 2 << 20;
/// Asks PAGEMAP_SCAN which of two pages is present, where only the first is.
pub(crate) fn pagemap_scan() -> io::Result<()> {
    let pages = map(2 * BASE_PAGE)?;
    pages.zero(0..BASE_PAGE)?;
    let start = pages.address() as u64;
    let present = Pagemap::open()?.first_run(start..start + pages.len(), Category::Present)?;
    if present == (start..start + BASE_PAGE) {
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
