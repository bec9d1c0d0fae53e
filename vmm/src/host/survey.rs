//! Everything that `underlay host` shows.

use std::collections::BTreeMap;

use guest_mem::{Backing, ByteSize, HugePageSize, MemoryCall, probe_userfaultfd};
use serde::{Deserialize, Serialize};

use super::{
    HugePages, Limits, Machine, Offer, Tracepoints, TransparentHugePages, Userfaultfd, VERSION,
    Virtualization, backings, describe, tree::Tree, warnings,
};
use crate::kvm::{Kvm, Vendor, Vm};

/// The version of the survey's JSON. Its keys are stable: a later version may add some, and one that changes its
/// meaning or goes away raises this.
pub const SCHEMA: u32 = 1;

/// The size of guest RAM that backings are looked at for, unless the user says otherwise.
pub const DEFAULT_SIZE: ByteSize = match ByteSize::new(64 << 20) {
    Some(size) => size,
    None => unreachable!(),
};

/// What a host offers, at the moment it was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSurvey {
    /// [`SCHEMA`] of the program that wrote it.
    pub schema: u32,
    /// The version of underlay.
    pub version: String,
    /// The kernel, the processor and the memory.
    pub machine: Machine,
    /// KVM.
    pub kvm: Virtualization,
    /// The bytes of guest RAM that the backings were looked at for.
    pub mem_bytes: u64,
    /// Every backing that needs no path.
    pub backings: Vec<Offer>,
    /// The pool of 2 MiB pages; `null` where there is none.
    pub hugepages_2m: Option<HugePages>,
    /// The pool of 1 GiB pages; `null` where there is none.
    pub hugepages_1g: Option<HugePages>,
    /// How transparent huge pages are made.
    pub transparent_hugepages: TransparentHugePages,
    /// Userfaultfd.
    pub userfaultfd: Userfaultfd,
    /// Memory system calls that not every kernel has, each tried.
    pub memory_calls: Vec<Offer>,
    /// KVM's tracepoints.
    pub tracepoints: Tracepoints,
    /// Limits of the kernel and of this process.
    pub limits: Limits,
    /// What else moves figures, as in the report of a measurement.
    pub environment: BTreeMap<String, String>,
    /// What of it is known to spoil them, with advice.
    pub warnings: Vec<String>,
}

/// Looks at everything; backings are looked at for guest RAM of `size`.
///
/// Makes a virtual machine, a `guest_memfd`, a userfaultfd and a little memory, and lets go of all of them. Changes
/// nothing on the host, mounts nothing and never fails.
#[must_use]
pub fn survey(size: ByteSize) -> HostSurvey {
    let tree = Tree::system();
    let vendor = Vendor::detect();
    let kvm = Kvm::open();
    let vm = kvm.as_ref().ok().map(Vm::create);
    let usable_vm = vm.as_ref().and_then(|vm| vm.as_ref().ok());
    let host = describe(tree, vendor.clone());
    HostSurvey {
        schema: SCHEMA,
        version: VERSION.to_owned(),
        machine: Machine::read(tree),
        mem_bytes: size.bytes(),
        backings: backings::survey(size, usable_vm),
        kvm: Virtualization::of(tree, vendor, &kvm, vm.as_ref()),
        hugepages_2m: HugePages::read(HugePageSize::Mb2),
        hugepages_1g: HugePages::read(HugePageSize::Gb1),
        transparent_hugepages: TransparentHugePages::read(tree),
        userfaultfd: Userfaultfd::of(&probe_userfaultfd()),
        memory_calls: MemoryCall::ALL.into_iter().map(attempt).collect(),
        tracepoints: Tracepoints::read(tree),
        limits: Limits::read(tree),
        warnings: warnings(&host, Backing::NAMED).iter().map(ToString::to_string).collect(),
        environment: host.environment,
    }
}

fn attempt(call: MemoryCall) -> Offer {
    match call.attempt() {
        Ok(()) => Offer::yes(call.name()),
        Err(error) => {
            Offer::no(call.name(), format!("this kernel refuses it: {error}")).enabled_by(kernel_with(call))
        }
    }
}

/// The advice of which kernel has `call`.
const fn kernel_with(call: MemoryCall) -> &'static str {
    match call {
        MemoryCall::PagemapScan => "needs Linux 6.7 or newer",
        MemoryCall::Collapse => "needs Linux 6.1 or newer with CONFIG_TRANSPARENT_HUGEPAGE",
        MemoryCall::PopulateWrite => "needs Linux 5.14 or newer",
        MemoryCall::NameAnonymous => "needs a kernel with CONFIG_ANON_VMA_NAME",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_memory_call_has_advice_on_where_to_find_it() {
        for call in MemoryCall::ALL {
            assert!(kernel_with(call).starts_with("needs "), "{call:?}");
        }
        assert!(kernel_with(MemoryCall::NameAnonymous).ends_with("CONFIG_ANON_VMA_NAME"));
    }

    #[track_caller]
    fn assert_reasoned(offer: &Offer) {
        assert_ne!(offer.available, offer.reason.is_some(), "{offer:?}");
        assert!(!offer.available || offer.enable.is_none(), "{offer:?}");
    }

    /// On whatever host this runs: only what holds on every one.
    #[test]
    fn this_host_is_surveyed() {
        let found = survey(DEFAULT_SIZE);

        assert_eq!((found.schema, found.mem_bytes), (SCHEMA, 64 << 20));
        assert!(found.machine.kernel.is_some() && found.machine.cpus >= Some(1));
        let names: Vec<_> = found.backings.iter().map(|offer| offer.name.as_str()).collect();
        assert_eq!(names, Backing::NAMED.iter().map(Backing::name).collect::<Vec<_>>());
        assert!(found.backings[0].available, "anonymous memory is everywhere");
        assert_eq!(found.kvm.device.available, !found.kvm.capabilities.is_empty());
        let had_descriptor = found.userfaultfd.way.is_some();
        assert_eq!(found.userfaultfd.features.len(), if had_descriptor { 17 } else { 0 });
        assert_eq!(found.memory_calls.len(), MemoryCall::ALL.len());
        let singles =
            [&found.kvm.device, &found.kvm.vm, &found.userfaultfd.kernel_faults, &found.tracepoints.tracefs];
        for offer in found.backings.iter().chain(&found.memory_calls).chain(singles) {
            assert_reasoned(offer);
        }
    }

    #[test]
    fn a_survey_survives_json() {
        let found = survey(DEFAULT_SIZE);

        let json = serde_json::to_string(&found).unwrap();

        assert!(json.starts_with(r#"{"schema":1,"#), "{json}");
        assert_eq!(serde_json::from_str::<HostSurvey>(&json).unwrap(), found);
    }

    #[test]
    fn everything_that_was_found_is_rendered_without_colour() {
        let found = survey(DEFAULT_SIZE);

        let text = found.render(None);

        let offers = found.backings.iter().chain(&found.memory_calls).map(|offer| &offer.name);
        let names = found.kvm.capabilities.keys().chain(found.userfaultfd.features.keys());
        for name in offers.chain(names).chain(found.tracepoints.wanted.keys()).chain(found.environment.keys())
        {
            assert!(text.contains(name), "{name} is not in\n{text}");
        }
        assert!(!text.contains('\x1b'), "{text}");
    }
}
