//! The CPUID of each vCPU of a kernel's guest: what KVM supports, with the guest's own topology, and without what was
//! masked.
//!
//! The topology is one package of as many cores as there are vCPUs, one thread each; a vCPU's (x2)APIC id is its number.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::CpuFeature;

/// Bits of leaf 1.
const HYPERVISOR: u32 = 1 << 31;
const TSC_DEADLINE: u32 = 1 << 24;
const HTT: u32 = 1 << 28;
/// Leaves that list the levels of the topology, a subleaf each.
const TOPOLOGY_LEAVES: [u32; 2] = [0xb, 0x1f];
/// Kinds of level, in bits 8-15 of ECX.
const THREADS: u32 = 1 << 8;
const CORES: u32 = 2 << 8;

/// What the vCPUs of one VM have in common.
#[derive(Clone, Debug, Default)]
pub struct CpuConfig {
    /// How many there are.
    pub count: u32,
    /// What the guest is not to see. Some KVMs show what the hardware has all the same; see
    /// [`Vcpu::still_shown`](super::Vcpu::still_shown).
    pub masked: Vec<CpuFeature>,
}

/// The CPUID of vCPU `id`. `deadline` says whether KVM's local APIC has a TSC deadline timer.
pub(super) fn for_vcpu(
    supported: &[kvm_cpuid_entry2],
    config: &CpuConfig,
    id: u32,
    deadline: bool,
) -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<_> =
        supported.iter().filter(|entry| !TOPOLOGY_LEAVES.contains(&entry.function)).copied().collect();
    let last = supported.iter().find(|entry| entry.function == 0).map_or(0, |entry| entry.eax);
    for leaf in TOPOLOGY_LEAVES.into_iter().filter(|leaf| *leaf <= last) {
        entries.extend(topology(leaf, config.count, id));
    }
    for entry in &mut entries {
        place(entry, config.count, id, deadline);
        for feature in &config.masked {
            feature.mask(entry);
        }
    }
    entries
}

/// How many bits of an APIC id tell `count` cores apart.
const fn bits(count: u32) -> u32 {
    if count <= 1 { 0 } else { u32::BITS - (count - 1).leading_zeros() }
}

/// The levels of the topology: threads of a core, cores of the package, and the level that says that there are no more.
fn topology(leaf: u32, count: u32, id: u32) -> [kvm_cpuid_entry2; 3] {
    let level = |index: u32, shift: u32, count: u32, kind: u32| kvm_cpuid_entry2 {
        function: leaf,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: kind | index,
        edx: id,
        ..kvm_cpuid_entry2::default()
    };
    [level(0, 0, 1, THREADS), level(1, bits(count), count, CORES), level(2, 0, 0, 0)]
}

/// Puts what depends on the vCPU's place into `entry`.
fn place(entry: &mut kvm_cpuid_entry2, count: u32, id: u32, deadline: bool) {
    let others = count.saturating_sub(1);
    match entry.function {
        1 => {
            entry.ecx |= HYPERVISOR | if deadline { TSC_DEADLINE } else { 0 };
            let several = if count > 1 { HTT } else { 0 };
            entry.edx = entry.edx & !HTT | several;
            // The APIC id, how many ids there are, and the rest as it is: 8 bits each for the first two.
            entry.ebx = entry.ebx & 0xffff | (id & 0xff) << 24 | count.min(0xff) << 16;
        }
        // Deterministic cache parameters: cores of the package; only of caches that are there.
        4 if entry.eax & 0x1f != 0 => {
            let last_level = entry.eax >> 5 & 7 >= 3;
            let sharing = if last_level { others.min(0xfff) } else { 0 };
            entry.eax = entry.eax & 0x3fff | others.min(0x3f) << 26 | sharing << 14;
        }
        // AMD: cores, and the bits of an APIC id that tell them apart.
        0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | others.min(0xff) | bits(count) << 12,
        // AMD's cache topology: who shares it.
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let last_level = entry.eax >> 5 & 7 >= 3;
            let sharing = if last_level { others.min(0xfff) } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing << 14;
        }
        // AMD's extended APIC id, core id with one thread, and node.
        0x8000_001e => {
            entry.eax = id;
            entry.ebx = id & 0xff;
            entry.ecx = 0;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, ..kvm_cpuid_entry2::default() }
    }

    /// What a KVM of many leaves supports.
    fn supported() -> Vec<kvm_cpuid_entry2> {
        let mut leaves = [0, 1, 4, 7, 0xb, 0xb, 0x8000_0001, 0x8000_0008, 0x8000_001e].map(leaf);
        leaves[0].eax = 0x10;
        leaves[1].ebx = 0x0510_0800;
        leaves[1].edx = HTT;
        leaves[2].eax = 0x21;
        leaves[3].ebx = u32::MAX;
        leaves[5].index = 1;
        leaves.to_vec()
    }

    fn config(count: u32) -> CpuConfig {
        CpuConfig { count, masked: Vec::new() }
    }

    #[track_caller]
    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *entries.iter().find(|entry| (entry.function, entry.index) == (function, index)).unwrap()
    }

    #[test]
    fn one_cpu_is_alone() {
        let entries = for_vcpu(&supported(), &config(1), 0, false);

        let first = find(&entries, 1, 0);
        assert_eq!((first.ebx, first.ecx, first.edx), (0x0001_0800, HYPERVISOR, 0));
        assert_eq!(find(&entries, 0xb, 1).eax, 0);
    }

    #[test]
    fn each_of_several_says_its_number_in_every_place() {
        let entries = for_vcpu(&supported(), &config(6), 5, true);

        let first = find(&entries, 1, 0);
        assert_eq!((first.ebx, first.edx), (0x0506_0800, HTT));
        assert_eq!(first.ecx, HYPERVISOR | TSC_DEADLINE);
        let [threads, cores, none] = [0, 1, 2].map(|index| find(&entries, 0xb, index));
        assert_eq!((threads.eax, threads.ebx, threads.ecx, threads.edx), (0, 1, THREADS, 5));
        assert_eq!((cores.eax, cores.ebx, cores.ecx, cores.edx), (3, 6, CORES | 1, 5));
        assert_eq!((none.ebx, none.ecx, none.edx), (0, 2, 5));
        assert_eq!(find(&entries, 4, 0).eax, 0x21 | 5 << 26);
        assert_eq!(find(&entries, 0x8000_0008, 0).ecx, 5 | 3 << 12);
        assert_eq!((find(&entries, 0x8000_001e, 0).eax, find(&entries, 0x8000_001e, 0).ebx), (5, 5));
    }

    #[test]
    fn a_topology_leaf_beyond_the_last_leaf_is_not_invented() {
        let entries = for_vcpu(&supported(), &config(2), 0, false);

        assert!(entries.iter().all(|entry| entry.function != 0x1f));
        assert_eq!(entries.iter().filter(|entry| entry.function == 0xb).count(), 3);
    }

    #[test]
    fn what_is_masked_is_gone_and_nothing_else() {
        let masked = vec!["smap".parse().unwrap(), "erms".parse().unwrap()];

        let entries = for_vcpu(&supported(), &CpuConfig { count: 1, masked }, 0, false);

        assert_eq!(find(&entries, 7, 0).ebx, !(1 << 20 | 1 << 9));
    }

    #[test]
    fn bits_tell_so_many_apart() {
        assert_eq!([1, 2, 3, 4, 5, 8, 9, 254].map(bits), [0, 1, 2, 2, 3, 3, 4, 8]);
    }
}
