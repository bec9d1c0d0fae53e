//! How to come by a userfaultfd.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::super::inject::{Injector, Operation};
use super::{Userfaultfd, abi};
use crate::{UserfaultfdFeatures, UserfaultfdWay};

/// USERFAULTFD_IOC_NEW of the kernel's interface: a descriptor from `/dev/userfaultfd`.
const IOC_NEW: libc::Ioctl = 0xaa00;
/// UFFD_USER_MODE_ONLY of the system call.
const USER_MODE_ONLY: libc::c_int = 1;

/// What no guest's RAM can be managed without.
const REQUIRED: u64 = abi::FEATURE_WP
    | abi::FEATURE_MISSING_HUGETLBFS
    | abi::FEATURE_MISSING_SHMEM
    | abi::FEATURE_MINOR_HUGETLBFS
    | abi::FEATURE_MINOR_SHMEM
    | abi::FEATURE_EXACT_ADDRESS
    | abi::FEATURE_WP_HUGETLBFS_SHMEM;
/// What is made use of where the kernel has it.
const OPTIONAL: u64 = abi::FEATURE_POISON;

/// Why there is no userfaultfd that a guest's RAM can be managed by.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenUserfaultfdError {
    /// Neither way led to a descriptor that sees the faults which KVM takes.
    #[error(
        "the faults of a guest need one of two things, and this process has neither: read and write access to \
         /dev/userfaultfd, which said: {device}; or a system call userfaultfd(2) that is not restricted to user mode \
         (set vm.unprivileged_userfaultfd to 1, or grant CAP_SYS_PTRACE), which said: {system_call}"
    )]
    Refused {
        /// What opening `/dev/userfaultfd`, or asking it for a descriptor, returned.
        device: io::Error,
        /// What the system call returned.
        #[source]
        system_call: io::Error,
    },
    /// The kernel is too old, or was built without a part of userfaultfd.
    #[error("the userfaultfd of this kernel lacks {missing}: managed guest RAM needs Linux 6.4 or later")]
    Lacks {
        /// The names of the features, separated by commas.
        missing: String,
    },
    /// There was a descriptor, but not a second one, or no agreement.
    #[error("the handshake with userfaultfd failed: {0}")]
    Handshake(#[from] io::Error),
}

impl OpenUserfaultfdError {
    /// The features whose bits are set in `missing` are not there.
    pub(super) fn lacking(missing: u64) -> Self {
        let named = UserfaultfdFeatures::from_bits(missing).named();
        let missing: Vec<_> = named.filter(|&(_, is_set)| is_set).map(|(name, _)| name).collect();
        Self::Lacks { missing: missing.join(", ") }
    }
}

impl Userfaultfd {
    /// A userfaultfd that sees the faults of guests, by the best way there is, with all features that are needed.
    ///
    /// Never one of [`UserfaultfdWay::UserModeOnly`], which KVM's faults do not come to.
    ///
    /// # Errors
    /// [`OpenUserfaultfdError`].
    pub(crate) fn for_guests(injector: Injector) -> Result<Self, OpenUserfaultfdError> {
        let (way, first) = Self::by_best_way(&injector)?;
        // A descriptor shakes hands once: the first learns what there is to agree on.
        let offered = first.offered_features()?;
        if REQUIRED & !offered != 0 {
            return Err(OpenUserfaultfdError::lacking(REQUIRED & !offered));
        }
        let mut agreed = Self::open_with(way, injector)?;
        agreed.shake_hands(REQUIRED | OPTIONAL & offered)?;
        Ok(agreed)
    }

    /// Makes a descriptor by `way`; before a handshake it is good for nothing else.
    pub(crate) fn open(way: UserfaultfdWay) -> io::Result<Self> {
        Self::open_with(way, Injector::none())
    }

    /// Shakes hands without asking for any feature, and returns the bits of all those that the kernel has.
    pub(crate) fn offered_features(mut self) -> io::Result<u64> {
        self.shake_hands(0)
    }

    fn by_best_way(injector: &Injector) -> Result<(UserfaultfdWay, Self), OpenUserfaultfdError> {
        let open = |way| Ok((way, Self::open_with(way, injector.clone())?));
        open(UserfaultfdWay::Device).or_else(|device| {
            open(UserfaultfdWay::SystemCall)
                .map_err(|system_call| OpenUserfaultfdError::Refused { device, system_call })
        })
    }

    fn open_with(way: UserfaultfdWay, injector: Injector) -> io::Result<Self> {
        injector.check(Operation::Open)?;
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        let fd = match way {
            UserfaultfdWay::Device => {
                let device = OpenOptions::new().read(true).write(true).open("/dev/userfaultfd")?;
                // SAFETY: the request takes flags and no pointer; it makes a descriptor and touches no memory.
                made(unsafe { libc::ioctl(device.as_raw_fd(), IOC_NEW, flags) }.into())?
            }
            UserfaultfdWay::SystemCall => system_call(flags)?,
            UserfaultfdWay::UserModeOnly => system_call(flags | USER_MODE_ONLY)?,
        };
        // SAFETY: the kernel has just made this descriptor, so nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, features: 0, injector })
    }

    /// Agrees on `features`, and returns the bits of all those that the kernel has.
    fn shake_hands(&mut self, features: u64) -> io::Result<u64> {
        self.injector.check(Operation::Handshake)?;
        let mut request = abi::Handshake::new(features);
        abi::call(&self.fd, &mut request)?;
        self.features = features;
        Ok(request.features)
    }
}

fn system_call(flags: libc::c_int) -> io::Result<RawFd> {
    // SAFETY: the call takes flags and no pointer; it makes a descriptor and touches no memory.
    made(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })
}

/// The descriptor that a system call made, if it did not return -1.
fn made(result: libc::c_long) -> io::Result<RawFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}
