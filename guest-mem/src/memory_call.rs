//! Memory system calls that not every kernel has.

use std::io;

use crate::host;

/// A memory system call that older kernels lack and a memory manager wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryCall {
    /// The ioctl on `/proc/PID/pagemap` that reports, and write-protects, pages by category (Linux 6.7).
    PagemapScan,
    /// `madvise` that makes a huge page of base pages at once (Linux 6.1).
    Collapse,
    /// `madvise` that makes every page of a range present and writable (Linux 5.14).
    PopulateWrite,
    /// `prctl` that names anonymous memory in `/proc/PID/maps` (Linux 5.17 with CONFIG_ANON_VMA_NAME).
    NameAnonymous,
}

impl MemoryCall {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::PagemapScan, Self::Collapse, Self::PopulateWrite, Self::NameAnonymous];

    /// The kernel's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PagemapScan => "PAGEMAP_SCAN",
            Self::Collapse => "MADV_COLLAPSE",
            Self::PopulateWrite => "MADV_POPULATE_WRITE",
            Self::NameAnonymous => "PR_SET_VMA_ANON_NAME",
        }
    }

    /// Makes the call once, on a little memory of its own that is gone when this returns.
    ///
    /// # Errors
    /// What the system said: commonly [`io::ErrorKind::InvalidInput`] or `ENOTTY` where the kernel has no such call.
    pub fn attempt(self) -> io::Result<()> {
        match self {
            Self::PagemapScan => host::pagemap_scan(),
            Self::Collapse => host::collapse(),
            Self::PopulateWrite => host::populate_write(),
            Self::NameAnonymous => host::name_anonymous(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_this_kernel_has_succeeds() {
        // Part of every kernel that underlay's other tests can run on.
        MemoryCall::PopulateWrite.attempt().unwrap();
    }
}
