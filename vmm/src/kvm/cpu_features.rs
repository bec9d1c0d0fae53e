//! CPU features by the names that Linux's /proc/cpuinfo gives them, and where CPUID says that they are there.

use std::{fmt, str::FromStr};

use kvm_bindings::kvm_cpuid_entry2;

/// One feature of a CPU, which CPUID says with one bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuFeature {
    name: &'static str,
    leaf: u32,
    subleaf: u32,
    register: Register,
    bit: u32,
}

/// No CPU feature has that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no CPU feature is called `{name}`; use the names of `flags` in /proc/cpuinfo")]
pub struct ParseCpuFeatureError {
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Leaf, subleaf, register, and the names of its bits from the lowest up; `-` has none.
const NAMES: [(u32, u32, Register, &str); 8] = [
    (
        1,
        0,
        Register::Ecx,
        "pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca sse4_1 \
         sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave - avx f16c rdrand hypervisor",
    ),
    (
        1,
        0,
        Register::Edx,
        "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts acpi mmx fxsr sse \
         sse2 ss ht tm ia64 pbe",
    ),
    (
        7,
        0,
        Register::Ebx,
        "fsgsbase tsc_adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm cqm - mpx rdt_a avx512f avx512dq rdseed adx \
         smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl",
    ),
    (
        7,
        0,
        Register::Ecx,
        "- avx512vbmi umip pku - waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme \
         avx512_vpopcntdq - la57 - - - - - rdpid - bus_lock_detect cldemote - movdiri movdir64b enqcmd sgx_lc pks",
    ),
    (
        7,
        0,
        Register::Edx,
        "- - avx512_4vnniw avx512_4fmaps fsrm uintr - - avx512_vp2intersect - md_clear - - - serialize - tsxldtrk - \
         pconfig arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile amx_int8 spec_ctrl intel_stibp flush_l1d \
         arch_capabilities - spec_ctrl_ssbd",
    ),
    (0xd, 1, Register::Eax, "xsaveopt xsavec xgetbv1 xsaves xfd"),
    (
        0x8000_0001,
        0,
        Register::Ecx,
        "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp fma4 \
         tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx",
    ),
    (
        0x8000_0001,
        0,
        Register::Edx,
        "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
    ),
];

impl CpuFeature {
    /// Its name in /proc/cpuinfo.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// Every feature that has a name here.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES
            .into_iter()
            .flat_map(|(leaf, subleaf, register, names)| {
                (0..).zip(names.split_ascii_whitespace()).map(move |(bit, name)| Self {
                    name,
                    leaf,
                    subleaf,
                    register,
                    bit,
                })
            })
            .filter(|feature| feature.name != "-")
    }

    /// Whether `entries` say that it is there.
    pub(super) fn is_in(self, entries: &[kvm_cpuid_entry2]) -> bool {
        entries.iter().any(|entry| self.is_told_by(entry) && self.register.of(*entry) & (1 << self.bit) != 0)
    }

    /// Makes `entry` say that it is not there.
    pub(super) fn mask(self, entry: &mut kvm_cpuid_entry2) {
        if self.is_told_by(entry) {
            *self.register.of_mut(entry) &= !(1 << self.bit);
        }
    }

    fn is_told_by(self, entry: &kvm_cpuid_entry2) -> bool {
        (entry.function, entry.index) == (self.leaf, self.subleaf)
    }
}

impl Register {
    const fn of(self, entry: kvm_cpuid_entry2) -> u32 {
        match self {
            Self::Eax => entry.eax,
            Self::Ebx => entry.ebx,
            Self::Ecx => entry.ecx,
            Self::Edx => entry.edx,
        }
    }

    const fn of_mut(self, entry: &mut kvm_cpuid_entry2) -> &mut u32 {
        match self {
            Self::Eax => &mut entry.eax,
            Self::Ebx => &mut entry.ebx,
            Self::Ecx => &mut entry.ecx,
            Self::Edx => &mut entry.edx,
        }
    }
}

impl FromStr for CpuFeature {
    type Err = ParseCpuFeatureError;

    fn from_str(name: &str) -> Result<Self, ParseCpuFeatureError> {
        let found = Self::all().find(|feature| feature.name == name);
        found.ok_or_else(|| ParseCpuFeatureError { name: name.to_owned() })
    }
}

impl fmt::Display for CpuFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[track_caller]
    fn place(name: &str) -> (u32, u32, Register, u32) {
        let feature: CpuFeature = name.parse().unwrap();
        (feature.leaf, feature.subleaf, feature.register, feature.bit)
    }

    #[test]
    fn features_are_where_the_manuals_have_them() {
        assert_eq!(place("popcnt"), (1, 0, Register::Ecx, 23));
        assert_eq!(place("xsave"), (1, 0, Register::Ecx, 26));
        assert_eq!(place("hypervisor"), (1, 0, Register::Ecx, 31));
        assert_eq!(place("ht"), (1, 0, Register::Edx, 28));
        assert_eq!(place("smap"), (7, 0, Register::Ebx, 20));
        assert_eq!(place("avx512vl"), (7, 0, Register::Ebx, 31));
        assert_eq!(place("rdpid"), (7, 0, Register::Ecx, 22));
        assert_eq!(place("fsrm"), (7, 0, Register::Edx, 4));
        assert_eq!(place("spec_ctrl_ssbd"), (7, 0, Register::Edx, 31));
        assert_eq!(place("xsaves"), (0xd, 1, Register::Eax, 3));
        assert_eq!(place("topoext"), (0x8000_0001, 0, Register::Ecx, 22));
        assert_eq!(place("pdpe1gb"), (0x8000_0001, 0, Register::Edx, 26));
        assert_eq!(place("lm"), (0x8000_0001, 0, Register::Edx, 29));
    }

    #[test]
    fn no_register_has_more_than_32_bits_and_no_name_is_used_twice() {
        let names: HashSet<_> = CpuFeature::all().map(CpuFeature::name).collect();

        assert_eq!(names.len(), CpuFeature::all().count());
        assert!(CpuFeature::all().all(|feature| feature.bit < 32));
    }

    #[test]
    fn only_the_bit_of_a_masked_feature_goes() {
        let smap: CpuFeature = "smap".parse().unwrap();
        let mut entries = [kvm_cpuid_entry2 { function: 7, ebx: u32::MAX, ..kvm_cpuid_entry2::default() }];
        assert!(smap.is_in(&entries));

        smap.mask(&mut entries[0]);

        assert_eq!(entries[0].ebx, !(1 << 20));
        assert!(!smap.is_in(&entries));
    }

    #[test]
    fn an_unknown_name_is_refused() {
        assert!("-".parse::<CpuFeature>().is_err());
        assert_eq!(
            "smep2".parse::<CpuFeature>().unwrap_err().to_string(),
            "no CPU feature is called `smep2`; use the names of `flags` in /proc/cpuinfo"
        );
    }
}
