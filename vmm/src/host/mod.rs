//! What a host offers to guest memory, and what about it moves the figures that are measured there.
//!
//! [`survey()`] looks at everything and never fails: what cannot be had is listed with the reason and the command that
//! would change it. [`report_host`] is the short form that goes into a measurement, and [`warnings()`] says what of it
//! spoils one.

mod backings;
mod environment;
mod limits;
mod machine;
mod memory;
mod offer;
mod render;
mod steal;
mod survey;
mod tracepoints;
mod tree;
mod userfaultfd;
mod virtualization;
mod warnings;

pub use environment::{CPU_GOVERNOR, HYPERVISOR, KSM, NUMA_BALANCING, NX_HUGE_PAGES, STEAL_PERCENT};
pub use limits::{Limits, ResourceLimit};
pub use machine::Machine;
pub use memory::{HugePages, Khugepaged, TransparentHugePages};
pub use offer::Offer;
pub use steal::StealClock;
pub use survey::{DEFAULT_SIZE, HostSurvey, SCHEMA, survey};
pub use tracepoints::Tracepoints;
pub use userfaultfd::{Userfaultfd, managed_faults};
pub use virtualization::Virtualization;
pub use warnings::{Warning, warnings};

use guest_mem::HugePageSize;

use crate::{kvm::Vendor, report};
use tree::{ABSENT, Tree};

/// underlay's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The host as a measurement reports it; `tsc_khz` is the frequency of the guest's time stamp counter in kHz.
#[must_use]
pub fn report_host(tsc_khz: u32) -> report::Host {
    let pool = |size| HugePages::read(size).map(report::Pool::from).unwrap_or_default();
    report::Host {
        hugepages_2m: pool(HugePageSize::Mb2),
        hugepages_1g: pool(HugePageSize::Gb1),
        tsc_khz,
        ..describe(Tree::system(), Vendor::detect())
    }
}

/// What files and the vendor module say of the host.
fn describe(tree: Tree<'_>, vendor: Vendor) -> report::Host {
    let or_absent = |text: Option<String>| text.unwrap_or_else(|| ABSENT.to_owned());
    let machine = Machine::read(tree);
    let thp = TransparentHugePages::read(tree);
    report::Host {
        kernel: or_absent(machine.kernel),
        cpu: or_absent(machine.cpu),
        kvm_vendor: vendor.module,
        second_stage: vendor.second_stage.name().to_owned(),
        thp: or_absent(thp.enabled),
        shmem_thp: or_absent(thp.shmem_enabled),
        hugepages_2m: report::Pool::default(),
        hugepages_1g: report::Pool::default(),
        tsc_khz: 0,
        version: VERSION.to_owned(),
        environment: environment::read(tree),
    }
}

impl From<HugePages> for report::Pool {
    fn from(pages: HugePages) -> Self {
        Self { total: pages.total, free: pages.free }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::SecondStage;

    fn vendor() -> Vendor {
        Vendor { module: "kvm_amd".into(), second_stage: SecondStage::Npt }
    }

    #[test]
    fn a_host_is_described_by_its_files() {
        let fake = tree::tests::FakeTree::with(&[
            ("proc/sys/kernel/osrelease", "6.18.0\n"),
            ("proc/cpuinfo", "processor : 0\nmodel name : Some CPU\nflags : hypervisor\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n"),
            ("sys/kernel/mm/ksm/run", "1\n"),
        ]);

        let host = describe(fake.tree(), vendor());

        assert_eq!((host.kernel.as_str(), host.cpu.as_str()), ("6.18.0", "Some CPU"));
        assert_eq!((host.kvm_vendor.as_str(), host.second_stage.as_str()), ("kvm_amd", "NPT"));
        assert_eq!((host.thp.as_str(), host.shmem_thp.as_str()), ("always", ABSENT));
        assert_eq!(warnings(&host, &[]), [Warning::Ksm, Warning::InsideVm]);
    }

    #[test]
    fn a_host_that_tells_nothing_is_described_all_the_same() {
        let host = describe(tree::tests::FakeTree::with(&[]).tree(), vendor());

        assert_eq!((host.kernel.as_str(), host.cpu.as_str()), (ABSENT, ABSENT));
        assert_eq!(warnings(&host, guest_mem::Backing::NAMED), []);
    }

    #[test]
    fn this_host_is_reported() {
        let host = report_host(2_000_000);

        assert_eq!((host.tsc_khz, host.version.as_str()), (2_000_000, VERSION));
        assert!(host.environment.contains_key(NX_HUGE_PAGES));
        assert!(!host.environment.contains_key(STEAL_PERCENT));
    }
}
