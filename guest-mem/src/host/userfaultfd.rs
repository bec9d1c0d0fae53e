//! Descriptors of userfaultfd: windows of guest RAM whose faults come here, and the ways to resolve them.
//!
//! A module of our own: the crate `userfaultfd` (0.9) has no UFFDIO_POISON and no write-protecting UFFDIO_CONTINUE,
//! allocates for every batch of events, and says neither how far an operation got nor which error it was.
//!
//! Memory gets in by [`Userfaultfd::register`] only, and only a [`Mapping`] does, of which no Rust reference is ever
//! made. The kernel refuses every other operation outside of registered memory. So all of this is safe to call, with
//! any address.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;

use super::inject::{Injector, Operation};
use super::mapping::{Advice, Mapping};

mod abi;
mod error;
mod events;
mod open;
mod resolve;
mod stop;
#[cfg(test)]
mod tests;

pub(crate) use error::{RegisterError, UffdError};
pub(crate) use events::{Event, FaultKind};
pub(crate) use open::OpenUserfaultfdError;
pub(crate) use resolve::Protection;
pub(crate) use stop::StopEvent;

/// A userfaultfd, close-on-exec and non-blocking.
///
/// Any number of threads may read its events and resolve them at the same time. When it is
/// closed, the kernel resolves all faults itself again, also those that wait, and fills what is missing with zeros.
#[derive(Debug)]
pub(crate) struct Userfaultfd {
    fd: OwnedFd,
    /// The bits of the features that were agreed on; none before the handshake.
    features: u64,
    injector: Injector,
}

impl Userfaultfd {
    /// What may have its calls fail, for whatever else makes calls for the same guest RAM.
    pub(crate) const fn injector(&self) -> &Injector {
        &self.injector
    }

    /// Whether [`poison`](Self::poison) may be called: since Linux 6.6.
    pub(crate) const fn can_poison(&self) -> bool {
        self.features & abi::FEATURE_POISON != 0
    }

    /// Has the faults in the bytes `range` of `memory` reported here: a shared mapping of shmem or hugetlb, whose page
    /// size both ends are multiples of.
    ///
    /// Reported are accesses to pages that the file has and the window does not map (MINOR), to pages that the file does
    /// not have (MISSING), and writes to write-protected pages (WP). Entries that are present stay, and raise no event
    /// before they are [zapped](Self::zap).
    ///
    /// # Errors
    /// [`RegisterError`]; a part of the range may be registered when several mappings lie in it.
    pub(crate) fn register(&self, memory: &Mapping, range: Range<u64>) -> Result<(), RegisterError> {
        self.injector.check(Operation::Register).map_err(RegisterError::of)?;
        let start = span(memory, &range).map_err(RegisterError::of)?;
        let mut request = abi::Register::new(start, range.end - range.start);
        abi::call(&self.fd, &mut request).map_err(RegisterError::of)
    }

    /// Leaves the faults in the bytes `range` of `memory` to the kernel again, and wakes whoever waits there: the kernel
    /// fills what is missing with zeros.
    ///
    /// What was write-protected becomes writable, but its entries stay read-only until they are written or zapped.
    ///
    /// # Errors
    /// `EINVAL` if a part of the range is registered with another userfaultfd or cannot be registered at all, `ENOMEM`
    /// if nothing is mapped there or the kernel has no memory to split a mapping.
    pub(crate) fn unregister(&self, memory: &Mapping, range: Range<u64>) -> io::Result<()> {
        self.injector.check(Operation::Unregister)?;
        let start = span(memory, &range)?;
        abi::call(&self.fd, &mut abi::Unregister::new(start, range.end - range.start))
    }

    /// Takes the entries of the bytes `range` of `memory` away (MADV_DONTNEED); the file keeps its pages, so that the
    /// next access raises a MINOR event.
    ///
    /// On hugetlb both ends are multiples of the huge page's size: the kernel says nothing of a part of a page, and does
    /// nothing. A write-protected entry leaves its protection behind, which the one who resolves the next fault takes
    /// away unless it passes [`Protection::WriteProtected`].
    ///
    /// # Errors
    /// `EAGAIN` and `EINTR` ask for another call, `ENOMEM` for memory to be freed first; all of them may come after a
    /// part was zapped, and zapping it again does no harm. `EINVAL` if `range` does not lie in `memory`, or the memory is
    /// locked.
    pub(crate) fn zap(&self, memory: &Mapping, range: Range<u64>) -> io::Result<()> {
        self.injector.check(Operation::Zap)?;
        memory.advise(range, Advice::DontNeed)
    }
}

/// The host address of the bytes `range` of `memory`.
fn span(memory: &Mapping, range: &Range<u64>) -> io::Result<u64> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let len = range.end.checked_sub(range.start).ok_or_else(invalid)?;
    let start = memory.pointer(range.start, len).ok_or_else(invalid)?;
    Ok(start.expose_provenance() as u64)
}
