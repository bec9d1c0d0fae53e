//! What else about a host moves the figures that are measured on it.

use std::collections::BTreeMap;

use super::{
    machine::has_cpu_flag,
    tree::{ABSENT, Tree},
};

/// Whether KVM maps what a guest executes from by 4 KiB pages only: `Y`, `N` or `never`.
pub const NX_HUGE_PAGES: &str = "nx_huge_pages";
/// Whether the kernel merges pages of equal content: `1`, or `0`.
pub const KSM: &str = "ksm";
/// Whether the kernel unmaps pages to learn which node uses them: not `0`.
pub const NUMA_BALANCING: &str = "numa_balancing";
/// Who chooses the frequency of CPU 0.
pub const CPU_GOVERNOR: &str = "cpu_governor";
/// Whether this is itself a virtual machine: `yes`, or `no`.
pub const HYPERVISOR: &str = "hypervisor";
/// How much of the time that the CPUs wanted to run another guest of the outer host had, in percent, during the run.
/// There is no such key where nobody recorded it or the run was too short to tell.
pub const STEAL_PERCENT: &str = "steal_percent";

/// The keys whose values are the contents of one file each.
const FILES: [(&str, &str); 8] = [
    (NX_HUGE_PAGES, "sys/module/kvm/parameters/nx_huge_pages"),
    (KSM, "sys/kernel/mm/ksm/run"),
    (NUMA_BALANCING, "proc/sys/kernel/numa_balancing"),
    (CPU_GOVERNOR, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    ("khugepaged_defrag", "sys/kernel/mm/transparent_hugepage/khugepaged/defrag"),
    ("khugepaged_scan_sleep_millisecs", "sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs"),
    // The order of the blocks that are given back to an outer host; -1 while no device takes them.
    ("free_page_reporting_order", "sys/module/page_reporting/parameters/page_reporting_order"),
    ("smt", "sys/devices/system/cpu/smt/control"),
];

/// Each setting as the kernel shows it; `absent` where this kernel has no such thing.
pub(super) fn read(tree: Tree<'_>) -> BTreeMap<String, String> {
    let files = FILES.map(|(key, path)| (key, tree.text(path)));
    let hypervisor = has_cpu_flag(tree, "hypervisor").map(|has| if has { "yes" } else { "no" });
    files
        .into_iter()
        .chain([(HYPERVISOR, hypervisor.map(str::to_owned))])
        .map(|(key, value)| (key.to_owned(), value.unwrap_or_else(|| ABSENT.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::FakeTree;
    use super::*;

    #[test]
    fn what_the_kernel_shows_is_kept_as_it_is() {
        let fake = FakeTree::with(&[
            ("sys/module/kvm/parameters/nx_huge_pages", "never\n"),
            ("proc/sys/kernel/numa_balancing", "1\n"),
            ("proc/cpuinfo", "flags : fpu hypervisor\n"),
        ]);

        let environment = read(fake.tree());

        assert_eq!(environment[NX_HUGE_PAGES], "never");
        assert_eq!(environment[NUMA_BALANCING], "1");
        assert_eq!(environment[HYPERVISOR], "yes");
        assert_eq!(environment[KSM], ABSENT);
    }

    #[test]
    fn every_key_is_there_on_every_host() {
        let environment = read(FakeTree::with(&[]).tree());

        assert_eq!(environment.len(), FILES.len() + 1);
        assert!(environment.values().all(|value| value == ABSENT), "{environment:?}");
    }
}
