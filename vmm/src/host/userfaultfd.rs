//! What this host offers of userfaultfd, and which door to open where it is closed.

use std::{collections::BTreeMap, io};

use guest_mem::{UserfaultfdProbe, UserfaultfdWay, probe_userfaultfd};
use serde::{Deserialize, Serialize};

use super::Offer;

const NAME: &str = "userfaultfd for a guest's faults";
/// What guest RAM cannot be managed without.
const MANAGED: [&str; 7] = [
    "PAGEFAULT_FLAG_WP",
    "MISSING_HUGETLBFS",
    "MISSING_SHMEM",
    "MINOR_HUGETLBFS",
    "MINOR_SHMEM",
    "EXACT_ADDRESS",
    "WP_HUGETLBFS_SHMEM",
];
const OPEN_DEVICE: &str = "setfacl -m u:$USER:rw /dev/userfaultfd";
const OPEN_SYSTEM_CALL: &str = "sysctl vm.unprivileged_userfaultfd=1";

/// Userfaultfd on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Userfaultfd {
    /// Whether a descriptor can be had that sees the faults that KVM takes for a guest.
    pub kernel_faults: Offer,
    /// How a descriptor was had, be it one that sees faults of user mode only; `null` where none was.
    pub way: Option<String>,
    /// Every feature by its name without `UFFD_FEATURE_`, and whether this kernel has it; empty without a descriptor.
    pub features: BTreeMap<String, bool>,
    /// The numbers of the feature bits that this kernel has and underlay has no name for.
    pub unnamed_features: Vec<u32>,
}

impl Userfaultfd {
    pub(super) fn of(probe: &UserfaultfdProbe) -> Self {
        let full = probe.offer.is_some_and(|(way, _)| way.sees_kernel_faults());
        let kernel_faults = if full { Offer::yes(NAME) } else { closed(&probe.refusals) };
        let features = probe.offer.map(|(_, features)| features);
        let named = features.into_iter().flat_map(guest_mem::UserfaultfdFeatures::named);
        let unnamed = features.into_iter().flat_map(guest_mem::UserfaultfdFeatures::unnamed);
        Self {
            kernel_faults,
            way: probe.offer.map(|(way, _)| way.name().to_owned()),
            features: named.map(|(name, has)| (name.to_owned(), has)).collect(),
            unnamed_features: unnamed.collect(),
        }
    }
}

/// Whether this process can resolve a guest's faults itself, as the managed backings need.
#[must_use]
pub fn managed_faults() -> Offer {
    Userfaultfd::of(&probe_userfaultfd()).for_managed()
}

impl Userfaultfd {
    fn for_managed(self) -> Offer {
        let lacks = |name: &&&str| !self.features.get(**name).copied().unwrap_or(false);
        let missing: Vec<_> = MANAGED.iter().filter(lacks).copied().collect();
        if !self.kernel_faults.available || missing.is_empty() {
            return self.kernel_faults;
        }
        Offer::no(NAME, format!("the userfaultfd of this kernel lacks {}", missing.join(", ")))
            .enabled_by("use Linux 6.4 or newer")
    }
}

/// Why there is no descriptor for a guest's faults, and what would give one.
fn closed(refusals: &[(UserfaultfdWay, io::Error)]) -> Offer {
    let full = refusals.iter().filter(|(way, _)| way.sees_kernel_faults());
    let reasons: Vec<_> = full.map(|(way, error)| format!("{}: {error}", way.name())).collect();
    let reason = format!(
        "{}; the device needs permission, the system call CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1",
        reasons.join("; ")
    );
    let offer = Offer::no(NAME, reason);
    let refused_with =
        |way, kind| refusals.iter().any(|(refused, error)| *refused == way && error.kind() == kind);
    let not_permitted = io::ErrorKind::PermissionDenied;
    if refused_with(UserfaultfdWay::Device, not_permitted) {
        offer.enabled_by(OPEN_DEVICE)
    } else if refused_with(UserfaultfdWay::SystemCall, not_permitted) {
        offer.enabled_by(OPEN_SYSTEM_CALL)
    } else {
        offer
    }
}

#[cfg(test)]
mod tests {
    use guest_mem::UserfaultfdFeatures;

    use super::*;

    fn refused(way: UserfaultfdWay, errno: i32) -> (UserfaultfdWay, io::Error) {
        (way, io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn a_descriptor_shows_its_features() {
        let features = UserfaultfdFeatures::from_bits(1 << 10 | 1 << 40);

        let found = Userfaultfd::of(&UserfaultfdProbe {
            offer: Some((UserfaultfdWay::SystemCall, features)),
            refusals: vec![refused(UserfaultfdWay::Device, libc::ENOENT)],
        });

        assert!(found.kernel_faults.available);
        assert_eq!(found.way.as_deref(), Some("userfaultfd(2)"));
        assert_eq!(found.features.len(), 17);
        assert!(found.features["MINOR_SHMEM"] && !found.features["MOVE"]);
        assert_eq!(found.unnamed_features, [40]);
    }

    #[test]
    fn managed_memory_needs_the_door_open_and_every_feature() {
        let with = |bits| {
            let features = UserfaultfdFeatures::from_bits(bits);
            let offer = Some((UserfaultfdWay::Device, features));
            Userfaultfd::of(&UserfaultfdProbe { offer, refusals: Vec::new() }).for_managed()
        };
        let closed = Userfaultfd::of(&UserfaultfdProbe {
            offer: None,
            refusals: vec![refused(UserfaultfdWay::Device, libc::EACCES)],
        });

        assert!(with(u64::MAX).available);
        let lacking = with(!(1 << 11));
        assert_eq!(lacking.reason.as_deref(), Some("the userfaultfd of this kernel lacks EXACT_ADDRESS"));
        assert!(lacking.enable.is_some());
        assert_eq!(closed.for_managed().enable.as_deref(), Some(OPEN_DEVICE));
    }

    #[test]
    fn a_closed_device_is_the_first_to_open() {
        let found = Userfaultfd::of(&UserfaultfdProbe {
            offer: Some((UserfaultfdWay::UserModeOnly, UserfaultfdFeatures::from_bits(1))),
            refusals: vec![
                refused(UserfaultfdWay::Device, libc::EACCES),
                refused(UserfaultfdWay::SystemCall, libc::EPERM),
            ],
        });

        assert!(!found.kernel_faults.available);
        assert_eq!(found.kernel_faults.enable.as_deref(), Some(OPEN_DEVICE));
        assert!(found.features["PAGEFAULT_FLAG_WP"]);
    }

    #[test]
    fn without_a_device_the_system_call_is_opened() {
        let found = Userfaultfd::of(&UserfaultfdProbe {
            offer: None,
            refusals: vec![
                refused(UserfaultfdWay::Device, libc::ENOENT),
                refused(UserfaultfdWay::SystemCall, libc::EPERM),
            ],
        });

        assert_eq!(found.kernel_faults.enable.as_deref(), Some(OPEN_SYSTEM_CALL));
        assert!(found.features.is_empty());
    }

    #[test]
    fn a_kernel_without_it_has_nothing_to_enable() {
        let found = Userfaultfd::of(&UserfaultfdProbe {
            offer: None,
            refusals: vec![refused(UserfaultfdWay::SystemCall, libc::ENOSYS)],
        });

        assert_eq!(found.kernel_faults.enable, None);
        assert!(found.kernel_faults.reason.unwrap().contains("not implemented"));
    }
}
