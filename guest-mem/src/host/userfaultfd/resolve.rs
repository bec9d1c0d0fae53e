//! How faults are resolved.
//!
//! Ranges are of host addresses, aligned to the page size of the window that they lie in. An event of `address` is
//! resolved by any range that holds it.
//!
//! Whoever waits for a range sleeps until [`Userfaultfd::wake`], whatever else is done: the one who resolves a fault first
//! writes down what it did, and wakes then.

use mmu_notifier::AddressRange;

use super::super::inject::Operation;
use super::{UffdError, Userfaultfd, abi};

/// Whether an entry takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    /// It does. An entry that was write-protected, and zapped since, loses its protection.
    Writable,
    /// A write raises a WP event.
    WriteProtected,
}

impl Userfaultfd {
    /// Maps the pages that the file has (UFFDIO_CONTINUE); on shmem by entries of 4 KiB, on hugetlb by huge ones.
    ///
    /// Write-protected entries need Linux 6.4: before, [`UffdError::Other`] with `EINVAL`.
    ///
    /// # Errors
    /// [`UffdError`].
    pub(crate) fn continue_(&self, range: AddressRange, protection: Protection) -> Result<(), UffdError> {
        let mode = match protection {
            Protection::Writable => abi::DONT_WAKE,
            Protection::WriteProtected => abi::DONT_WAKE | abi::INSTALL_PROTECTED,
        };
        let mut request = abi::Continue::new(range, mode);
        let result = self.request(Operation::Continue, &mut request);
        result.map_err(|error| UffdError::of(error, request.done))
    }

    /// Has the next write to each page raise a WP event (UFFDIO_WRITEPROTECT), also where no entry is present.
    ///
    /// Of writes by another mapping of the same file nothing is heard. On shmem that is mapped by huge entries this takes
    /// the whole entry away.
    ///
    /// # Errors
    /// [`UffdError`].
    pub(crate) fn write_protect(&self, range: AddressRange) -> Result<(), UffdError> {
        self.protection(range, abi::PROTECT)
    }

    /// Lets writes through again.
    ///
    /// # Errors
    /// As [`write_protect`](Self::write_protect).
    pub(crate) fn write_unprotect(&self, range: AddressRange) -> Result<(), UffdError> {
        self.protection(range, abi::UNPROTECT_DONT_WAKE)
    }

    fn protection(&self, range: AddressRange, mode: u64) -> Result<(), UffdError> {
        let result = self.request(Operation::WriteProtect, &mut abi::WriteProtect::new(range, mode));
        result.map_err(|error| UffdError::of(error, 0))
    }

    /// Wakes whoever waits in the range (UFFDIO_WAKE), who makes its access again and, if nothing has changed, raises a
    /// new event. Harmless where nobody waits or nothing is registered.
    ///
    /// # Errors
    /// [`UffdError::Other`], for an address outside of user space only.
    pub(crate) fn wake(&self, range: AddressRange) -> Result<(), UffdError> {
        let result = self.request(Operation::Wake, &mut abi::Wake::new(range));
        result.map_err(UffdError::Other)
    }

    /// Makes every access to pages that have no entry end in SIGBUS, as if the hardware had lost them (UFFDIO_POISON),
    /// until they are zapped or continued. Only if it [can](Self::can_poison).
    ///
    /// A thread in KVM_RUN gets the signal too, with the code BUS_MCEERR_AR, and `EINTR`: it needs a handler.
    ///
    /// # Errors
    /// [`UffdError`].
    pub(crate) fn poison(&self, range: AddressRange) -> Result<(), UffdError> {
        let mut request = abi::Poison::new(range, abi::DONT_WAKE);
        let result = self.request(Operation::Poison, &mut request);
        result.map_err(|error| UffdError::of(error, request.done))
    }

    fn request<R: abi::Request>(&self, operation: Operation, request: &mut R) -> std::io::Result<()> {
        self.injector.check(operation)?;
        abi::call(&self.fd, request)
    }
}
