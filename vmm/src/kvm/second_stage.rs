//! Which hardware, or which software, translates guest-physical addresses: read from the loaded modules.

use std::{fs, path::Path};

/// How this KVM translates guest-physical addresses to host-physical ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondStage {
    /// Intel's extended page tables.
    Ept,
    /// AMD's nested page tables.
    Npt,
    /// No second stage in hardware: KVM keeps shadow page tables.
    Shadow,
    /// No vendor module that this program knows is loaded.
    Unknown,
}

/// The vendor module behind `/dev/kvm` and the second stage that it runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vendor {
    /// The module's name, such as `kvm_intel`; `unknown` where none was found.
    pub module: String,
    /// What its parameters say of the second stage.
    pub second_stage: SecondStage,
}

impl SecondStage {
    /// The name that reports use: `EPT`, `NPT`, `shadow` or `unknown`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ept => "EPT",
            Self::Npt => "NPT",
            Self::Shadow => "shadow",
            Self::Unknown => "unknown",
        }
    }
}

impl Vendor {
    /// Reads the vendor module and its parameters from `/sys/module`.
    #[must_use]
    pub fn detect() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self::detect_in(Path::new("/sys/module"), &cpuinfo)
    }

    /// Only one vendor module can own `/dev/kvm`. A module that is loaded but did not register (`kvm_intel` beside
    /// PVM, say) holds no reference to `kvm`. Of modules built into the kernel nothing tells who registered: there the
    /// one that fits the processor comes first.
    fn detect_in(modules: &Path, cpuinfo: &str) -> Self {
        let native = if cpuinfo.contains("GenuineIntel") { "kvm_intel" } else { "kvm_amd" };
        let known = ["kvm_pvm", native, "kvm_intel", "kvm_amd"];
        let holders = modules.join("kvm/holders");
        let module = known
            .into_iter()
            .find(|module| holders.join(module).exists())
            .or_else(|| known.into_iter().find(|module| modules.join(module).exists()));
        let Some(module) = module else {
            return Self { module: "unknown".to_owned(), second_stage: SecondStage::Unknown };
        };
        let parameter = |name: &str| {
            fs::read_to_string(modules.join(module).join("parameters").join(name))
                .is_ok_and(|value| matches!(value.trim(), "Y" | "1"))
        };
        let second_stage = match module {
            "kvm_intel" if parameter("ept") => SecondStage::Ept,
            "kvm_amd" if parameter("npt") => SecondStage::Npt,
            _ => SecondStage::Shadow,
        };
        Self { module: module.to_owned(), second_stage }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn detect(files: &[(&str, &str)]) -> (String, SecondStage) {
        detect_on("vendor_id : AuthenticAMD", files)
    }

    fn detect_on(cpuinfo: &str, files: &[(&str, &str)]) -> (String, SecondStage) {
        let vendor = Vendor::detect_in(modules(files).path(), cpuinfo);
        (vendor.module, vendor.second_stage)
    }

    #[test]
    fn the_parameters_of_the_vendor_module_decide() {
        assert_eq!(detect(&[("kvm_intel/parameters/ept", "Y\n")]), ("kvm_intel".into(), SecondStage::Ept));
        assert_eq!(detect(&[("kvm_intel/parameters/ept", "N\n")]), ("kvm_intel".into(), SecondStage::Shadow));
        assert_eq!(detect(&[("kvm_amd/parameters/npt", "1\n")]), ("kvm_amd".into(), SecondStage::Npt));
        assert_eq!(detect(&[("kvm_amd/parameters/npt", "0\n")]), ("kvm_amd".into(), SecondStage::Shadow));
        assert_eq!(detect(&[("kvm_pvm/refcnt", "1\n")]), ("kvm_pvm".into(), SecondStage::Shadow));
        assert_eq!(detect(&[("kvm/refcnt", "0\n")]), ("unknown".into(), SecondStage::Unknown));
    }

    #[test]
    fn the_module_that_holds_kvm_wins_over_one_that_is_merely_loaded() {
        let files =
            [("kvm_pvm/refcnt", "0"), ("kvm_amd/parameters/npt", "1"), ("kvm/holders/kvm_amd/refcnt", "1")];

        assert_eq!(detect(&files), ("kvm_amd".into(), SecondStage::Npt));
    }

    #[test]
    fn of_two_modules_in_the_kernel_the_processors_own_is_meant() {
        let files = [("kvm_intel/parameters/ept", "Y"), ("kvm_amd/parameters/npt", "1")];

        assert_eq!(detect_on("vendor_id : AuthenticAMD", &files), ("kvm_amd".into(), SecondStage::Npt));
        assert_eq!(detect_on("vendor_id : GenuineIntel", &files), ("kvm_intel".into(), SecondStage::Ept));
    }
}
