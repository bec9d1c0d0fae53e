//! KVM, and what it says of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Offer, machine::has_cpu_flag, tree::Tree};
use crate::kvm::{self, CreateVmError, Kvm, OpenKvmError, Vendor, Vm};

const DEVICE: &str = "/dev/kvm";
/// Joining the device's group helps only where that group may open it; this does everywhere.
const OPEN_DEVICE: &str = "setfacl -m u:$USER:rw /dev/kvm";
const VM: &str = "virtual machine";

/// KVM on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Virtualization {
    /// Whether `/dev/kvm` can be opened.
    pub device: Offer,
    /// Whether a virtual machine can be made.
    pub vm: Offer,
    /// KVM's vendor module.
    pub vendor: String,
    /// `EPT`, `NPT`, `shadow` or `unknown`.
    pub second_stage: String,
    /// The capabilities that bear on guest memory, without their `KVM_CAP_` prefix: zero where absent, else one, a
    /// limit or a set of flags. Empty where `/dev/kvm` cannot be opened.
    pub capabilities: BTreeMap<String, u32>,
}

impl Virtualization {
    /// What was found, with the KVM and the virtual machine that the survey made for the purpose.
    pub(super) fn of(
        tree: Tree<'_>,
        vendor: Vendor,
        kvm: &Result<Kvm, OpenKvmError>,
        vm: Option<&Result<Vm, CreateVmError>>,
    ) -> Self {
        let device = match kvm {
            Ok(_) => Offer::yes(DEVICE),
            Err(error) => closed(tree, error),
        };
        let vm = match vm {
            Some(Ok(_)) => Offer::yes(VM),
            Some(Err(error)) => Offer::failed(VM, error),
            None => Offer::no(VM, format!("{DEVICE} cannot be opened")),
        };
        let capabilities = kvm.as_ref().map(kvm::capabilities).unwrap_or_default();
        Self {
            device,
            vm,
            vendor: vendor.module,
            second_stage: vendor.second_stage.name().to_owned(),
            capabilities: capabilities
                .into_iter()
                .map(|capability| (capability.name.to_owned(), capability.value))
                .collect(),
        }
    }
}

/// Why `/dev/kvm` cannot be opened, and what opens it on this processor.
fn closed(tree: Tree<'_>, error: &OpenKvmError) -> Offer {
    let offer = Offer::failed(DEVICE, error);
    let has = |flag| has_cpu_flag(tree, flag) == Some(true);
    match error {
        OpenKvmError::Missing(_) if has("vmx") => offer.enabled_by("modprobe kvm_intel"),
        OpenKvmError::Missing(_) if has("svm") => offer.enabled_by("modprobe kvm_amd"),
        OpenKvmError::Permission(_) => offer.enabled_by(OPEN_DEVICE),
        _ => offer,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::tree::tests::FakeTree;
    use super::*;
    use crate::kvm::SecondStage;

    #[track_caller]
    fn enable(error: OpenKvmError, flags: &str) -> Option<String> {
        let fake = FakeTree::with(&[("proc/cpuinfo", &format!("flags : {flags}\n"))]);
        let vendor = Vendor { module: "unknown".into(), second_stage: SecondStage::Unknown };

        let found = Virtualization::of(fake.tree(), vendor, &Err(error), None);

        assert!(!found.device.available && !found.vm.available);
        assert!(found.device.reason.unwrap().contains("/dev/kvm"));
        assert!(found.capabilities.is_empty());
        found.device.enable
    }

    #[test]
    fn a_host_without_kvm_is_told_what_to_load() {
        let missing = || OpenKvmError::Missing(io::ErrorKind::NotFound.into());
        assert_eq!(enable(missing(), "fpu vmx").as_deref(), Some("modprobe kvm_intel"));
        assert_eq!(enable(missing(), "svm fpu").as_deref(), Some("modprobe kvm_amd"));
        assert_eq!(enable(missing(), "fpu"), None);
    }

    #[test]
    fn a_user_without_permission_is_told_how_to_get_it() {
        let closed = OpenKvmError::Permission(io::ErrorKind::PermissionDenied.into());
        assert_eq!(enable(closed, "vmx").as_deref(), Some(OPEN_DEVICE));
    }
}
