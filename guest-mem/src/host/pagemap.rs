//! What this process's page tables have, asked for by PAGEMAP_SCAN (Linux 6.7).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// PAGEMAP_SCAN of the kernel's interface.
const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610;

/// The page tables of this process.
#[derive(Debug)]
pub(crate) struct Pagemap(File);

/// What pages are looked for.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub(crate) enum Category {
    /// In memory (PAGE_IS_PRESENT).
    Present = 1 << 3,
    /// Mapped by an entry of 2 MiB (PAGE_IS_HUGE).
    Huge = 1 << 6,
}

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

impl Pagemap {
    pub(crate) fn open() -> io::Result<Self> {
        File::open("/proc/self/pagemap").map(Self)
    }

    /// The first run of pages of `category` in the addresses `range`, whole pages; empty if there is none.
    pub(crate) fn first_run(&self, range: Range<u64>, category: Category) -> io::Result<Range<u64>> {
        let mut region = PageRegion::default();
        let mut request = ScanRequest {
            size: size_of::<ScanRequest>() as u64,
            start: range.start,
            end: range.end,
            vec: (&raw mut region).expose_provenance() as u64,
            vec_len: 1,
            category_mask: category as u64,
            return_mask: category as u64,
            ..ScanRequest::default()
        };
        // SAFETY: the request reads and writes one `pm_scan_arg`, whose layout `ScanRequest` has, and writes at most
        // `vec_len` regions, of which there is one, at `vec`. Its flags are none, so it changes no page.
        let regions = unsafe { libc::ioctl(self.0.as_raw_fd(), PAGEMAP_SCAN, &raw mut request) };
        if regions < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(region.start..region.end)
    }
}
