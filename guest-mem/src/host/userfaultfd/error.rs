//! Why the kernel did not do what a userfaultfd was asked for.

use std::io;

/// Why a fault was not resolved, or a protection not changed.
///
/// **Whoever waits in the range still sleeps**, after success too. Each event ends with
/// [`wake`](super::Userfaultfd::wake), else a vCPU sleeps for ever; to wake without having resolved is always safe, since
/// the access is made again and raises a new event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UffdError {
    /// `EEXIST`: the first page has an entry already; nothing was done.
    ///
    /// Somebody else resolved the fault, or this event is stale. Go on with the rest of the range if there is any, and
    /// wake.
    #[error("an entry is there already: wake whoever waits for it")]
    Exists,
    /// `EFAULT`: the file has no page there, so that UFFDIO_CONTINUE has nothing to map; nothing was done.
    ///
    /// The page was punched out since, or never populated. Populate it and try again, or wake and let the access be
    /// made again.
    #[error("the file has no page there: populate it and try again, or wake whoever waits for it")]
    NotPopulated,
    /// `EAGAIN`: the kernel stopped after the first `done` bytes, which are as asked for.
    ///
    /// Go on at `done`: the next call says what was in the way there. After several calls with 0, wake.
    #[error("only the first {done:#x} bytes were done: go on from there")]
    Raced {
        /// How many bytes were done: a multiple of the page size, less than asked for, and possibly 0.
        done: u64,
    },
    /// `ENOENT`: no memory that is registered here lies in the range, or in its beginning; nothing was done.
    ///
    /// The event is stale, as the window was unmapped, moved or unregistered since. Forget the event, and wake.
    #[error("the range is not registered here: forget the event, and wake whoever waits for it")]
    NotRegistered,
    /// `ESRCH`: the process whose memory it is is exiting.
    ///
    /// Nobody is left to be woken. Stop.
    #[error("the process is exiting: there is nothing more to resolve")]
    Exiting,
    /// `ENOMEM`: the kernel has no memory for a page table.
    ///
    /// Free something and try again; wake if that takes long, and so let the access be made again.
    #[error("the kernel has no memory for it: free some, and wake whoever waits")]
    NoMemory,
    /// Anything else: `EINVAL` for a range that is not aligned to the window's page size or lies outside of the file,
    /// `EIO` for a page that the hardware has lost.
    ///
    /// It will fail again. Poison the page or stop the guest, and say why.
    #[error(transparent)]
    Other(#[from] io::Error),
}

impl UffdError {
    /// What `error` means when the kernel says that it did `done` bytes, or has a negative error there.
    pub(super) fn of(error: io::Error, done: i64) -> Self {
        match error.raw_os_error() {
            Some(libc::EEXIST) => Self::Exists,
            Some(libc::EFAULT) => Self::NotPopulated,
            Some(libc::EAGAIN) => Self::Raced { done: u64::try_from(done).unwrap_or(0) },
            Some(libc::ENOENT) => Self::NotRegistered,
            Some(libc::ESRCH) => Self::Exiting,
            Some(libc::ENOMEM) => Self::NoMemory,
            _ => Self::Other(error),
        }
    }
}

/// Why the faults of a range are not reported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegisterError {
    /// `EBUSY`: another userfaultfd has a part of the range.
    #[error("another userfaultfd has this memory: unregister it there first")]
    Busy,
    /// `ENOMEM`: the kernel has no memory to split a mapping, or the process has as many mappings as it may.
    #[error("no mapping can be split: free memory, or raise vm.max_map_count")]
    NoMemory,
    /// `EPERM`: the file of the memory was not opened for writing, or was sealed against it.
    #[error(
        "the file of this memory cannot be written to, so that its faults cannot be resolved: open it for writing"
    )]
    NotWritable,
    /// `EINVAL`: the range does not lie in the mapping, its ends are not multiples of the page size, or its memory is
    /// neither shmem nor hugetlb.
    #[error("only whole pages of shared shmem or hugetlb memory can be registered: {0}")]
    Unsuitable(#[source] io::Error),
    /// Anything else.
    #[error(transparent)]
    Other(io::Error),
}

impl RegisterError {
    pub(super) fn of(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EBUSY) => Self::Busy,
            Some(libc::ENOMEM) => Self::NoMemory,
            Some(libc::EPERM) => Self::NotWritable,
            Some(libc::EINVAL) => Self::Unsuitable(error),
            _ => Self::Other(error),
        }
    }
}
