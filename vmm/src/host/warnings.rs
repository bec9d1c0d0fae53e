//! What about a host is known to spoil what is measured on it, and what to do about it.

use std::fmt;

use guest_mem::Backing;

use super::environment::{CPU_GOVERNOR, HYPERVISOR, KSM, NUMA_BALANCING, NX_HUGE_PAGES, STEAL_PERCENT};
use crate::report;

/// The largest share of stolen time that is not worth a warning, in percent.
const TOLERABLE_STEAL: f64 = 5.0;

/// Something about the host that spoils figures. Its text says what it does and how to be rid of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Warning {
    /// KVM maps huge pages that the guest executes from by small ones.
    NxHugePages,
    /// The kernel merges pages of equal content.
    Ksm,
    /// The kernel unmaps pages to see who uses them.
    NumaBalancing,
    /// The CPUs are kept slow.
    PowersaveGovernor,
    /// Other guests of the outer host had the CPUs.
    Steal {
        /// The share of the time that the CPUs wanted to run, in percent.
        percent: f64,
    },
    /// The host is a virtual machine itself.
    InsideVm,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NxHugePages => f.write_str(
                "nx_huge_pages is on: KVM maps a huge page that the guest executes from by 4 KiB pages, so huge \
                 backings take more faults; if all guests are trusted, switch it off with \
                 `echo off > /sys/module/kvm/parameters/nx_huge_pages`",
            ),
            Self::Ksm => f.write_str(
                "KSM is running: it scans memory and write-protects pages of equal content, which the guest then \
                 faults on again; stop it with `echo 0 > /sys/kernel/mm/ksm/run`",
            ),
            Self::NumaBalancing => f.write_str(
                "NUMA balancing is on: the kernel unmaps guest memory to see which node uses it, and every such page \
                 faults again; switch it off with `sysctl kernel.numa_balancing=0`",
            ),
            Self::PowersaveGovernor => f.write_str(
                "the CPU governor is powersave: the clock follows the load, and so do all durations; choose another \
                 with `cpupower frequency-set -g performance`",
            ),
            Self::Steal { percent } => write!(
                f,
                "the outer host gave {percent:.1}% of the CPU time to others during the run: durations are too long \
                 by about as much; run it again when the host is quieter"
            ),
            Self::InsideVm => f.write_str(
                "this host is a virtual machine: all figures include what its own host does at a fault; compare only \
                 with figures from the same kind of machine, or measure on bare metal",
            ),
        }
    }
}

/// What spoils a run over `backings` on `host`, whose environment may hold the steal of the run.
///
/// A setting that is absent or not understood gives no warning.
#[must_use]
pub fn warnings(host: &report::Host, backings: &[Backing]) -> Vec<Warning> {
    let setting = |key| host.environment.get(key).map(String::as_str);
    let steal = setting(STEAL_PERCENT).and_then(|percent| percent.parse::<f64>().ok());

    let nx_huge_pages = setting(NX_HUGE_PAGES) == Some("Y") && backings.iter().any(is_huge);
    let ksm = setting(KSM) == Some("1");
    let numa_balancing = matches!(setting(NUMA_BALANCING), Some("1" | "2" | "3"));
    let powersave = setting(CPU_GOVERNOR) == Some("powersave");
    let inside_vm = setting(HYPERVISOR) == Some("yes");

    [
        nx_huge_pages.then_some(Warning::NxHugePages),
        ksm.then_some(Warning::Ksm),
        numa_balancing.then_some(Warning::NumaBalancing),
        powersave.then_some(Warning::PowersaveGovernor),
        steal.filter(|&percent| percent > TOLERABLE_STEAL).map(|percent| Warning::Steal { percent }),
        inside_vm.then_some(Warning::InsideVm),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Whether KVM could map this backing by huge pages.
fn is_huge(backing: &Backing) -> bool {
    backing.is_hugetlb() || matches!(backing, Backing::AnonymousThp | Backing::ShmemThp)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tree::ABSENT;
    use super::*;

    /// The warnings on a host where `key` has `value` and everything else is absent.
    #[track_caller]
    fn with(key: &str, value: &str) -> Vec<Warning> {
        warnings(&host(&[(key, value)]), Backing::NAMED)
    }

    fn host(environment: &[(&str, &str)]) -> report::Host {
        let absent = || ABSENT.to_owned();
        report::Host {
            kernel: absent(),
            cpu: absent(),
            kvm_vendor: absent(),
            second_stage: absent(),
            thp: absent(),
            shmem_thp: absent(),
            hugepages_2m: report::Pool::default(),
            hugepages_1g: report::Pool::default(),
            tsc_khz: 0,
            version: absent(),
            environment: environment
                .iter()
                .map(|&(key, value)| (key.to_owned(), value.to_owned()))
                .collect::<BTreeMap<_, _>>(),
        }
    }

    #[test]
    fn nx_huge_pages_warns_where_something_huge_is_measured() {
        assert_eq!(with(NX_HUGE_PAGES, "Y"), [Warning::NxHugePages]);
        assert_eq!(with(NX_HUGE_PAGES, "N"), []);
        assert_eq!(with(NX_HUGE_PAGES, "never"), []);
        let small = [Backing::Anonymous, Backing::Shmem, Backing::GuestMemfd];
        assert_eq!(warnings(&host(&[(NX_HUGE_PAGES, "Y")]), &small), []);
    }

    #[test]
    fn ksm_warns_while_it_merges() {
        assert_eq!(with(KSM, "1"), [Warning::Ksm]);
        assert_eq!(with(KSM, "0"), []);
        assert_eq!(with(KSM, "2"), []);
    }

    #[test]
    fn numa_balancing_warns_in_every_mode() {
        assert_eq!(with(NUMA_BALANCING, "1"), [Warning::NumaBalancing]);
        assert_eq!(with(NUMA_BALANCING, "2"), [Warning::NumaBalancing]);
        assert_eq!(with(NUMA_BALANCING, "0"), []);
    }

    #[test]
    fn the_governor_powersave_warns() {
        assert_eq!(with(CPU_GOVERNOR, "powersave"), [Warning::PowersaveGovernor]);
        assert_eq!(with(CPU_GOVERNOR, "performance"), []);
    }

    #[test]
    fn steal_warns_above_five_percent() {
        assert_eq!(with(STEAL_PERCENT, "5.1"), [Warning::Steal { percent: 5.1 }]);
        assert_eq!(with(STEAL_PERCENT, "5.0"), []);
    }

    #[test]
    fn a_run_inside_a_virtual_machine_warns() {
        assert_eq!(with(HYPERVISOR, "yes"), [Warning::InsideVm]);
        assert_eq!(with(HYPERVISOR, "no"), []);
    }

    #[test]
    fn what_is_absent_or_odd_does_not_warn() {
        let keys = [NX_HUGE_PAGES, KSM, NUMA_BALANCING, CPU_GOVERNOR, STEAL_PERCENT, HYPERVISOR];
        for odd in [ABSENT, "", "?"] {
            let environment = keys.map(|key| (key, odd));
            assert_eq!(warnings(&host(&environment), Backing::NAMED), [], "{odd:?}");
        }
        assert_eq!(warnings(&host(&[]), Backing::NAMED), []);
    }

    #[test]
    fn every_warning_gives_advice_in_one_line() {
        let all = [
            (Warning::NxHugePages, "echo off"),
            (Warning::Ksm, "echo 0"),
            (Warning::NumaBalancing, "sysctl"),
            (Warning::PowersaveGovernor, "cpupower"),
            (Warning::Steal { percent: 7.25 }, "run it again"),
            (Warning::InsideVm, "bare metal"),
        ];
        for (warning, advice) in all {
            let text = warning.to_string();
            assert!(text.contains(advice) && !text.contains('\n'), "{text}");
        }
    }
}
