//! The memory behind the numbers.

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

/// The memory of a pool. Ranges are bytes of the pool, multiples of 4 KiB, and of 2 MiB where the pool has only those.
///
/// Nothing but [`populate`](Self::populate) makes the host find memory, so nothing else fails for want of it. Except
/// by that, frames are touched only while they are present: anything else might be a SIGBUS.
pub(crate) trait FrameStore: fmt::Debug + Send + Sync {
    /// The memory file; `None` if there is none.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Makes absent frames present, and zero. After an error some may be present.
    fn populate(&self, bytes: Range<u64>) -> io::Result<()>;

    /// Whether the memory of a block that was just populated as a whole is one huge page; true where one cannot see it.
    fn is_huge(&self, bytes: Range<u64>) -> bool;

    /// Makes frames absent, and returns their memory to the host.
    fn punch(&self, bytes: Range<u64>) -> io::Result<()>;

    /// Sees to it that [`populate`](Self::populate) of each of these absent frames succeeds, once.
    fn promise(&self, bytes: Range<u64>) -> io::Result<()>;

    /// Zeroes present frames.
    fn zero(&self, bytes: Range<u64>) -> io::Result<()>;

    /// Writes `bytes` from `offset` on.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Reads `bytes` from `offset` on.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Copies present frames to `to`.
    fn copy(&self, from: Range<u64>, to: u64) -> io::Result<()>;
}

/// No memory: everything succeeds, and what is read is zero.
#[derive(Debug)]
pub(super) struct NoStore;

impl FrameStore for NoStore {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn populate(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn is_huge(&self, _: Range<u64>) -> bool {
        true
    }

    fn punch(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn promise(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn zero(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn read(&self, _: u64, bytes: &mut [u8]) -> io::Result<()> {
        bytes.fill(0);
        Ok(())
    }

    fn copy(&self, _: Range<u64>, _: u64) -> io::Result<()> {
        Ok(())
    }
}
