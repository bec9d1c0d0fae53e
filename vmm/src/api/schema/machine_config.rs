//! `/machine-config`.

use guest_mem::Backing;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Refusals, Refused};

/// Firecracker's limit; `--vcpus` has none but KVM's.
const MOST_VCPUS: u8 = 32;

/// The body of PUT /machine-config and the answer to GET /machine-config.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// How many vCPUs: 1 to 32.
    pub vcpu_count: u8,
    /// Guest RAM, in MiB.
    pub mem_size_mib: u64,
    /// Not to be had here: whether two vCPUs are one core.
    #[serde(default)]
    pub smt: bool,
    /// Not to be had here, but for `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_template: Option<String>,
    /// Not to be had here: it serves snapshots.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// The pages of guest RAM.
    #[serde(default)]
    pub huge_pages: HugePages,
    /// Any of underlay's backings, instead of the one that `huge_pages` stands for. A field of underlay's own.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "by_name")]
    pub backing: Option<Backing>,
}

/// The pages of guest RAM, in Firecracker's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum HugePages {
    /// Pages of 4 KiB: `anonymous`.
    #[default]
    None,
    /// Transparent huge pages: `anonymous_thp`.
    Transparent,
    /// Pages of 2 MiB of the host's pool: `anonymous_hugetlb_2mb`.
    #[serde(rename = "2M")]
    Hugetlb2M,
}

impl HugePages {
    /// What backs guest RAM.
    const fn backing(self) -> Backing {
        match self {
            Self::None => Backing::Anonymous,
            Self::Transparent => Backing::AnonymousThp,
            Self::Hugetlb2M => Backing::AnonymousHugetlb2mb,
        }
    }
}

impl Default for MachineConfig {
    /// One vCPU and 128 MiB.
    fn default() -> Self {
        Self {
            vcpu_count: 1,
            mem_size_mib: 128,
            smt: false,
            cpu_template: None,
            track_dirty_pages: false,
            huge_pages: HugePages::None,
            backing: None,
        }
    }
}

impl MachineConfig {
    /// What backs guest RAM.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.backing.clone().unwrap_or_else(|| self.huge_pages.backing())
    }

    /// Whether any pages of 4 KiB will do.
    #[must_use]
    pub fn asks_for_no_backing(&self) -> bool {
        self.backing.is_none() && self.huge_pages == HugePages::None
    }

    pub(crate) fn check(&self) -> Refusals {
        let mut wrong = Refusals::default();
        if !(1..=MOST_VCPUS).contains(&self.vcpu_count) {
            wrong.add("vcpu_count", format!("must be 1 to {MOST_VCPUS}"));
        }
        if self.smt {
            wrong.add("smt", "must be false: underlay's vCPUs are cores of their own");
        }
        if self.cpu_template.as_deref().is_some_and(|name| name != "None") {
            wrong.add("cpu_template", "must be \"None\": underlay has no CPU templates");
        }
        if self.track_dirty_pages {
            wrong.add("track_dirty_pages", "must be false: underlay has no snapshots");
        }
        if self.backing.is_some() && self.huge_pages != HugePages::None {
            wrong.add("backing", "names the pages already: leave huge_pages out");
        }
        wrong.note(self.check_memory());
        wrong
    }

    fn check_memory(&self) -> Result<(), Refused> {
        let backing = self.backing();
        let unit = match self.huge_pages {
            HugePages::Transparent if self.backing.is_none() => 2,
            _ => backing.page_size().div_ceil(1 << 20),
        };
        if self.mem_size_mib == 0 || self.mem_size_mib.checked_mul(1 << 20).is_none() {
            return Err(Refused::new("mem_size_mib", "must be at least 1, and fit into an address space"));
        }
        if !self.mem_size_mib.is_multiple_of(unit) {
            return Err(Refused::new("mem_size_mib", format!("must be a multiple of {unit} on {backing}")));
        }
        Ok(())
    }
}

/// The body of PATCH /machine-config: what is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineConfigUpdate {
    /// See [`MachineConfig::vcpu_count`].
    pub vcpu_count: Option<u8>,
    /// See [`MachineConfig::mem_size_mib`].
    pub mem_size_mib: Option<u64>,
    /// See [`MachineConfig::smt`].
    pub smt: Option<bool>,
    /// See [`MachineConfig::cpu_template`].
    pub cpu_template: Option<String>,
    /// See [`MachineConfig::track_dirty_pages`].
    pub track_dirty_pages: Option<bool>,
    /// See [`MachineConfig::huge_pages`]; it takes the place of a backing.
    pub huge_pages: Option<HugePages>,
    /// See [`MachineConfig::backing`]; it takes the place of huge pages.
    #[serde(with = "by_name")]
    pub backing: Option<Backing>,
}

impl MachineConfigUpdate {
    /// `old` with what is to change. Of `huge_pages` and `backing` the one that is named decides from now on.
    pub(crate) fn apply(self, old: &MachineConfig) -> MachineConfig {
        let (huge_pages, backing) = match (self.huge_pages, self.backing) {
            (None, None) => (old.huge_pages, old.backing.clone()),
            (huge_pages, backing) => (huge_pages.unwrap_or_default(), backing),
        };
        MachineConfig {
            vcpu_count: self.vcpu_count.unwrap_or(old.vcpu_count),
            mem_size_mib: self.mem_size_mib.unwrap_or(old.mem_size_mib),
            smt: self.smt.unwrap_or(old.smt),
            cpu_template: self.cpu_template.or_else(|| old.cpu_template.clone()),
            track_dirty_pages: self.track_dirty_pages.unwrap_or(old.track_dirty_pages),
            huge_pages,
            backing,
        }
    }
}

/// A backing as its name.
mod by_name {
    use super::{Backing, Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde passes it so")]
    pub(super) fn serialize<S: Serializer>(
        backing: &Option<Backing>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        backing.as_ref().map(ToString::to_string).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Backing>, D::Error> {
        let name = Option::<String>::deserialize(deserializer)?;
        name.map(|name| name.parse().map_err(serde::de::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(json: &str) -> &'static str {
        serde_json::from_str::<MachineConfig>(json).unwrap().check().into_iter().next().unwrap().field
    }

    #[test]
    fn each_limit_names_its_field() {
        assert_eq!(refused(r#"{"vcpu_count":0,"mem_size_mib":1}"#), "vcpu_count");
        assert_eq!(refused(r#"{"vcpu_count":33,"mem_size_mib":1}"#), "vcpu_count");
        assert_eq!(refused(r#"{"vcpu_count":1,"mem_size_mib":0}"#), "mem_size_mib");
        assert_eq!(refused(r#"{"vcpu_count":1,"mem_size_mib":18446744073709551615}"#), "mem_size_mib");
        assert_eq!(refused(r#"{"vcpu_count":1,"mem_size_mib":3,"huge_pages":"2M"}"#), "mem_size_mib");
        assert_eq!(
            refused(r#"{"vcpu_count":1,"mem_size_mib":3,"huge_pages":"Transparent"}"#),
            "mem_size_mib"
        );
        assert_eq!(refused(r#"{"vcpu_count":1,"mem_size_mib":3,"backing":"managed_2mb"}"#), "mem_size_mib");
        assert_eq!(refused(r#"{"vcpu_count":2,"mem_size_mib":2,"smt":true}"#), "smt");
        assert_eq!(refused(r#"{"vcpu_count":1,"mem_size_mib":2,"cpu_template":"T2"}"#), "cpu_template");
        assert_eq!(
            refused(r#"{"vcpu_count":1,"mem_size_mib":2,"track_dirty_pages":true}"#),
            "track_dirty_pages"
        );
        let both = r#"{"vcpu_count":1,"mem_size_mib":2,"huge_pages":"2M","backing":"shmem"}"#;
        assert_eq!(refused(both), "backing");
    }

    #[test]
    fn the_last_word_on_the_pages_decides() {
        let base = MachineConfig::default();
        let managed = MachineConfigUpdate { backing: Some(Backing::Managed4kb), ..Default::default() };
        let managed = managed.apply(&base);
        assert_eq!(managed.backing(), Backing::Managed4kb);

        let huge = MachineConfigUpdate { huge_pages: Some(HugePages::Hugetlb2M), ..Default::default() };
        let huge = huge.apply(&managed);
        assert_eq!(huge.backing(), Backing::AnonymousHugetlb2mb);

        let more = MachineConfigUpdate { mem_size_mib: Some(256), ..Default::default() };
        assert_eq!(more.apply(&managed).backing(), Backing::Managed4kb);
    }
}
