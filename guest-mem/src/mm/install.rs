//! Where page-table entries become true: what the memory manager asks of the host.
//!
//! The manager's own page table says what the guest has; an [`Install`] makes that so. The host that counts is
//! userfaultfd's; one that maps nothing ([`NoHost`]) lets everything above run where there is no guest.

use std::{io, ops::Range};

/// Makes entries of one guest RAM true. Offsets are bytes from the start of the RAM, whole base pages, and on a pool of
/// huge pages whole huge pages.
///
/// Every call is made under the page-table lock of the one 2 MiB range that it is in.
pub(crate) trait Install: Send + Sync {
    /// Maps the frames that lie at `range`, all of which are there and hold what the guest shall see; a whole 2 MiB range
    /// by one entry if the host can.
    ///
    /// Wakes nobody: [`wake`](Self::wake) is called when all is in that belongs together.
    fn map(&self, range: Range<u64>, protected: bool) -> Result<(), InstallError>;

    /// Takes the entries of `range` away, in this process's page table and so in every second stage that mirrors it.
    fn zap(&self, range: Range<u64>) -> io::Result<()>;

    /// Forbids writes to the present entries of `range`, or allows them again; wakes nobody.
    fn protect(&self, range: Range<u64>, protected: bool) -> io::Result<()>;

    /// Ends whoever touches a page of `range`, none of which is mapped, with a machine check's SIGBUS.
    fn poison(&self, range: Range<u64>) -> io::Result<()>;

    /// Lets everybody who waits for a page of `range` touch it again.
    fn wake(&self, range: Range<u64>) -> io::Result<()>;
}

/// Why entries were not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    /// The first `done` bytes are mapped; then there was an entry that the manager did not know of.
    #[error("an entry that should not be there, {done:#x} bytes into the range")]
    Exists {
        /// Bytes that are mapped.
        done: u64,
    },
    /// The first `done` bytes are mapped; the rest can be tried again.
    #[error("the address space was changing, {done:#x} bytes into the range")]
    Again {
        /// Bytes that are mapped.
        done: u64,
    },
    /// The pool has no page there.
    #[error("the pool has no page there")]
    NotPopulated,
    /// The process ends.
    #[error("the process ends")]
    Exiting,
    /// The host refused.
    #[error("the host refused")]
    Refused(#[from] io::Error),
}

/// A host that maps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NoHost;

impl Install for NoHost {
    fn map(&self, _: Range<u64>, _: bool) -> Result<(), InstallError> {
        Ok(())
    }

    fn zap(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn protect(&self, _: Range<u64>, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn wake(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn poison(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }
}
