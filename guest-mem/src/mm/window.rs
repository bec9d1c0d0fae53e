//! The window that shows a stretch of a pool to the guest: one shared mapping, registered with userfaultfd once.
//!
//! UFFDIO_CONTINUE maps hugetlb by huge entries and shmem by small ones. A transparent huge page of shmem is mapped huge
//! *in place*: its range is zapped and unregistered, and the kernel maps what the file has there, by one entry. That is
//! safe as long as all 512 frames are there, which they are while the manager's entry stands: a hole would be filled
//! with zeros, and nobody would be told.

use std::{io, ops::Range, sync::Arc, thread, time::Duration};

use mmu_notifier::{
    AddressRange,
    sync::atomic::{
        AtomicBool,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use super::{Install, InstallError};
use crate::{
    BLOCK_SIZE,
    host::{Mapping, MoveError, Operation, Protection, RegisterError, UffdError, Userfaultfd},
};

/// Makes entries true in a window.
#[derive(Debug)]
pub(crate) struct Window {
    mapping: Arc<Mapping>,
    uffd: Arc<Userfaultfd>,
    /// Which 2 MiB ranges are mapped huge in place, if transparent huge pages are what the frames are.
    in_place: Option<Box<[AtomicBool]>>,
    /// It shows no frame any more. Set once, for good, when that is so.
    retired: AtomicBool,
}

impl Window {
    /// Registers all of `mapping`, of which no page has been touched. Of `transparent` huge pages a whole one is mapped by
    /// one entry, by leaving its range to the kernel for as long as all of its frames are there.
    pub(crate) fn register(
        mapping: Arc<Mapping>,
        uffd: Arc<Userfaultfd>,
        transparent: bool,
    ) -> Result<Self, RegisterError> {
        uffd.register(&mapping, 0..mapping.len())?;
        let in_place = transparent
            .then(|| (0..mapping.len().div_ceil(BLOCK_SIZE)).map(|_| AtomicBool::new(false)).collect());
        Ok(Self { mapping, uffd, in_place, retired: AtomicBool::new(false) })
    }

    /// What it shows the frames in.
    pub(crate) const fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Takes every frame out of the window, for good: whoever still has the mapping finds plain memory, zeros at first, and
    /// no fault there is reported any more. Wakes whoever waits. Only then can the frames be somebody else's.
    ///
    /// # Errors
    /// The window may still show frames; the kernel resolves the faults there.
    pub(crate) fn retire(&self) -> io::Result<()> {
        let whole = 0..self.mapping.len();
        let replaced = self.uffd.injector().check(Operation::Map).map_err(MoveError::from);
        match replaced.and_then(|()| self.mapping.become_plain()) {
            // The addresses may be somebody else's, so there is nobody to be seen by.
            Ok(()) | Err(MoveError::Lost(_)) => {
                // Release: pairs with the Acquire in `is_retired`.
                self.retired.store(true, Release);
                if let Err(error) = self.wake(whole) {
                    log::error!("whoever waits for guest RAM waits until its userfaultfd is closed: {error}");
                }
                Ok(())
            }
            Err(MoveError::Refused(error) | MoveError::Emptied(error)) => {
                self.uffd.unregister(&self.mapping, whole)?;
                Err(error)
            }
        }
    }

    fn is_retired(&self) -> bool {
        // Acquire: pairs with the Release in `retire`.
        self.retired.load(Acquire)
    }

    /// Whether the 2 MiB range that `range` is in is mapped in place. Changed and read under its page-table lock, so it
    /// orders nothing.
    fn in_place(&self, range: &Range<u64>) -> Option<&AtomicBool> {
        let block = usize::try_from(range.start / BLOCK_SIZE).ok()?;
        self.in_place.as_ref()?.get(block)
    }

    fn is_in_place(&self, range: &Range<u64>) -> bool {
        self.in_place(range).is_some_and(|in_place| in_place.load(Relaxed))
    }

    /// Lets the kernel map the huge page at `range`: its faults are reported no more, and all that it can find there are
    /// the frames. False if the kernel did not follow; small entries are gone then.
    fn map_in_place(&self, range: &Range<u64>) -> io::Result<bool> {
        let Some(in_place) = self.in_place(range).filter(|_| range.end - range.start == BLOCK_SIZE) else {
            return Ok(false);
        };
        if in_place.load(Relaxed) {
            return Ok(true);
        }
        // Small entries first, while faults are reported still: taken away later, they would take the huge one along.
        self.zap_registered(range)?;
        // It splits a mapping of the process, of which there may be too many.
        if self.uffd.unregister(&self.mapping, range.clone()).is_err() {
            return Ok(false);
        }
        in_place.store(true, Relaxed);
        Ok(true)
    }

    /// Has the faults in the 2 MiB that `range` is in reported again, and takes its huge entry away, if it was mapped in
    /// place. Whether it was.
    fn unmap_in_place(&self, range: &Range<u64>) -> io::Result<bool> {
        let Some(in_place) = self.in_place(range).filter(|_| self.is_in_place(range)) else {
            return Ok(false);
        };
        let start = range.start / BLOCK_SIZE * BLOCK_SIZE;
        let block = start..start + BLOCK_SIZE;
        self.uffd.register(&self.mapping, block.clone()).map_err(io::Error::other)?;
        // Also if the zap fails: what is left then is small entries or none, and is mapped in place anew.
        in_place.store(false, Relaxed);
        self.zap_registered(&block)?;
        Ok(true)
    }

    fn zap_registered(&self, range: &Range<u64>) -> io::Result<()> {
        retry(|| self.uffd.zap(&self.mapping, range.clone()))
    }

    fn host(&self, range: &Range<u64>) -> io::Result<AddressRange> {
        let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
        let start = self.mapping.address() as u64 + range.start;
        AddressRange::new(start, range.end - range.start).map_err(invalid)
    }
}

impl Install for Window {
    fn map(&self, range: Range<u64>, protected: bool) -> Result<(), InstallError> {
        if self.is_retired() {
            return Err(InstallError::Exiting);
        }
        if !protected && self.map_in_place(&range)? {
            return Ok(());
        }
        let protection = if protected { Protection::WriteProtected } else { Protection::Writable };
        self.uffd.continue_(self.host(&range)?, protection).map_err(|error| match error {
            UffdError::Exists => InstallError::Exists { done: 0 },
            UffdError::Raced { done } => InstallError::Again { done },
            UffdError::NotPopulated => InstallError::NotPopulated,
            UffdError::Exiting => InstallError::Exiting,
            UffdError::NotRegistered => os(libc::ENOENT).into(),
            UffdError::NoMemory => os(libc::ENOMEM).into(),
            UffdError::Other(error) => error.into(),
        })
    }

    fn zap(&self, range: Range<u64>) -> io::Result<()> {
        if self.is_retired() {
            return Ok(());
        }
        if self.unmap_in_place(&range)? {
            return Ok(());
        }
        self.zap_registered(&range)
    }

    fn protect(&self, range: Range<u64>, protected: bool) -> io::Result<()> {
        if self.is_retired() {
            return Ok(());
        }
        // Without entries there is nothing to protect: the next fault makes them as they shall be.
        if protected && self.unmap_in_place(&range)? || !protected && self.is_in_place(&range) {
            return Ok(());
        }
        let host = self.host(&range)?;
        retry(|| {
            let result =
                if protected { self.uffd.write_protect(host) } else { self.uffd.write_unprotect(host) };
            result.map_err(plain)
        })
    }

    fn poison(&self, range: Range<u64>) -> io::Result<()> {
        if !self.uffd.can_poison() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.uffd.poison(self.host(&range)?).map_err(plain)
    }

    fn wake(&self, range: Range<u64>) -> io::Result<()> {
        let host = self.host(&range)?;
        // Whoever is not woken now may sleep for ever. The kernel refuses no range of the window; should something in
        // between refuse one, it gets the time to change its mind.
        for pause in (0..64).map(|attempt| Duration::from_millis(u64::from(attempt >= 8))) {
            if self.uffd.wake(host).is_ok() {
                return Ok(());
            }
            thread::sleep(pause);
        }
        self.uffd.wake(host).map_err(plain)
    }
}

/// Calls `work` again for as long as it is told to, a few times at most.
fn retry(mut work: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    for _ in 0..8 {
        match work() {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {}
            result => return result,
        }
    }
    work()
}

fn os(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// The error as the kernel gave it.
fn plain(error: UffdError) -> io::Error {
    match error {
        UffdError::Exists => os(libc::EEXIST),
        UffdError::NotPopulated => os(libc::EFAULT),
        UffdError::Raced { .. } => os(libc::EAGAIN),
        UffdError::NotRegistered => os(libc::ENOENT),
        UffdError::Exiting => os(libc::ESRCH),
        UffdError::NoMemory => os(libc::ENOMEM),
        UffdError::Other(error) => error,
    }
}
