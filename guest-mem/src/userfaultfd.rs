//! What this host offers of userfaultfd.

use std::io;

use crate::host::Userfaultfd;

/// A way to come by a userfaultfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserfaultfdWay {
    /// USERFAULTFD_IOC_NEW on `/dev/userfaultfd`: whoever may open the device gets a full descriptor.
    Device,
    /// The system call: a full descriptor for CAP_SYS_PTRACE, or for all where vm.unprivileged_userfaultfd is 1.
    SystemCall,
    /// The system call with UFFD_USER_MODE_ONLY: anybody's, but blind to faults that the kernel takes, as KVM does.
    UserModeOnly,
}

impl UserfaultfdWay {
    /// Every way, best first.
    pub const ALL: [Self; 3] = [Self::Device, Self::SystemCall, Self::UserModeOnly];

    /// What is opened or called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Device => "/dev/userfaultfd",
            Self::SystemCall => "userfaultfd(2)",
            Self::UserModeOnly => "userfaultfd(2) with UFFD_USER_MODE_ONLY",
        }
    }

    /// Whether the descriptor also reports the faults that the kernel takes, without which it sees none of a guest's.
    #[must_use]
    pub const fn sees_kernel_faults(self) -> bool {
        !matches!(self, Self::UserModeOnly)
    }
}

/// The features of this kernel's userfaultfd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserfaultfdFeatures(u64);

impl UserfaultfdFeatures {
    /// The names of the bits, lowest first, without their `UFFD_FEATURE_` prefix.
    pub const NAMES: [&str; 17] = [
        "PAGEFAULT_FLAG_WP",
        "EVENT_FORK",
        "EVENT_REMAP",
        "EVENT_REMOVE",
        "MISSING_HUGETLBFS",
        "MISSING_SHMEM",
        "EVENT_UNMAP",
        "SIGBUS",
        "THREAD_ID",
        "MINOR_HUGETLBFS",
        "MINOR_SHMEM",
        "EXACT_ADDRESS",
        "WP_HUGETLBFS_SHMEM",
        "WP_UNPOPULATED",
        "POISON",
        "WP_ASYNC",
        "MOVE",
    ];

    /// The features whose bits are set in `bits`, as UFFDIO_API returns them.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Every feature that has a name, lowest bit first, and whether the kernel has it.
    pub fn named(self) -> impl Iterator<Item = (&'static str, bool)> {
        let has = move |bit| self.0 >> bit & 1 != 0;
        (0_u32..).zip(Self::NAMES).map(move |(bit, name)| (name, has(bit)))
    }

    /// The bits that the kernel has and this program has no name for, lowest first.
    pub fn unnamed(self) -> impl Iterator<Item = u32> {
        (0..u64::BITS).skip(Self::NAMES.len()).filter(move |bit| self.0 >> bit & 1 != 0)
    }
}

/// What was found of userfaultfd.
#[derive(Debug)]
pub struct UserfaultfdProbe {
    /// The best way that led to a descriptor, and the features the descriptor offered.
    pub offer: Option<(UserfaultfdWay, UserfaultfdFeatures)>,
    /// The better ways that did not, and what the system said of each.
    pub refusals: Vec<(UserfaultfdWay, io::Error)>,
}

/// Tries the ways to come by a userfaultfd, best first, until one leads to a descriptor; closes it again.
#[must_use]
pub fn probe_userfaultfd() -> UserfaultfdProbe {
    let mut refusals = Vec::new();
    for way in UserfaultfdWay::ALL {
        match Userfaultfd::open(way).and_then(Userfaultfd::offered_features) {
            Ok(bits) => {
                let offer = Some((way, UserfaultfdFeatures::from_bits(bits)));
                return UserfaultfdProbe { offer, refusals };
            }
            Err(error) => refusals.push((way, error)),
        }
    }
    UserfaultfdProbe { offer: None, refusals }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_the_names_of_the_kernels_interface() {
        let names = |bits| -> Vec<_> {
            let features = UserfaultfdFeatures::from_bits(bits).named();
            features.filter(|&(_, has)| has).map(|(name, _)| name).collect()
        };
        assert_eq!(names(0), [""; 0]);
        assert_eq!(names(1 << 0 | 1 << 9), ["PAGEFAULT_FLAG_WP", "MINOR_HUGETLBFS"]);
        assert_eq!(names(1 << 12 | 1 << 16), ["WP_HUGETLBFS_SHMEM", "MOVE"]);
    }

    #[test]
    fn bits_without_a_name_are_numbers() {
        let unnamed = |bits| -> Vec<_> { UserfaultfdFeatures::from_bits(bits).unnamed().collect() };
        assert_eq!(unnamed((1 << 17) - 1), [0; 0]);
        assert_eq!(unnamed(1 << 3 | 1 << 17 | 1 << 63), [17, 63]);
    }

    #[test]
    fn a_probe_ends_at_the_first_way_that_works() {
        let probe = probe_userfaultfd();

        let refused: Vec<_> = probe.refusals.iter().map(|&(way, _)| way).collect();
        let offered: Vec<_> = probe.offer.iter().map(|&(way, _)| way).collect();
        let tried = [refused, offered].concat();
        assert_eq!(tried, UserfaultfdWay::ALL[..tried.len()]);
        assert!(probe.offer.is_some() || tried.len() == UserfaultfdWay::ALL.len());
    }
}
