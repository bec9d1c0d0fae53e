//! `/memory`, `/memory/policy` and `/memory/discard`: underlay's own.

use std::collections::BTreeMap;

use mmu_notifier::{AddressRange, PAGE_SIZE};
use serde::{Deserialize, Serialize};

use super::Refused;

/// The answer to GET /memory; sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MemoryReport {
    /// What guest RAM is made of.
    pub backing: String,
    /// Who resolves the guest's faults: `kernel` or `underlay`.
    pub resolved_by: &'static str,
    /// What the guest sees.
    pub guest_bytes: u64,
    /// What is there; `null` where the host does not say.
    pub resident_bytes: Option<u64>,
    /// What of it is mapped by huge pages; `null` where the host does not say.
    pub huge_bytes: Option<u64>,
    /// The proportional share; `null` where the kernel resolves the faults.
    pub pss_bytes: Option<u64>,
    /// What may be written, or was; `null` where the kernel resolves the faults.
    pub committed_bytes: Option<u64>,
    /// Page tables and metadata of frames; `null` where the kernel resolves the faults.
    pub metadata_bytes: Option<u64>,
    /// What was asked for range by range, in address order; one range without a policy where the kernel resolves the
    /// faults.
    pub vmas: Vec<VmaUsage>,
    /// Faults by what they came to or met; empty where the kernel resolves them.
    pub faults: BTreeMap<&'static str, u64>,
    /// How long faults took from when a handler had them until the guest was woken; `null` if none was timed.
    pub fault_latency: Option<FaultLatency>,
    /// Threads that resolved faults and were replaced.
    pub replaced_handlers: u64,
}

/// One range of guest RAM; sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VmaUsage {
    /// Its first guest-physical address.
    pub start: u64,
    /// How long it is.
    pub length: u64,
    /// What it was called.
    pub name: Option<String>,
    /// Whether the guest may write.
    pub writable: bool,
    /// Whether writes are tracked.
    pub dirty_tracked: bool,
    /// Whether pages of equal content may be made one.
    pub mergeable: bool,
    /// Whether huge pages are used.
    pub huge: Option<HugePolicyName>,
    /// Mapped by huge pages.
    pub huge_bytes: u64,
    /// Mapped by pages of 4 KiB.
    pub base_bytes: u64,
    /// The proportional share.
    pub pss_bytes: u64,
    /// Written since writes are tracked.
    pub dirty_bytes: u64,
    /// Held by devices.
    pub pinned_bytes: u64,
}

/// How long faults took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FaultLatency {
    /// How many were timed: the latest ones.
    pub count: u64,
    /// Half of them took no longer, in nanoseconds.
    pub p50_ns: u64,
    /// Nine in ten.
    pub p90_ns: u64,
    /// 99 in a hundred.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// Whether huge pages are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HugePolicyName {
    /// Pages of 4 KiB only.
    Never,
    /// Pages of 2 MiB wherever one fits.
    Always,
}

/// The body of POST /memory/discard: guest-physical bytes, multiples of 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryRange {
    /// The first address.
    pub start: u64,
    /// How many bytes.
    pub length: u64,
}

impl MemoryRange {
    /// As a range.
    pub(crate) fn check(self) -> Result<AddressRange, Refused> {
        let aligned = format!("must be a multiple of {PAGE_SIZE}");
        if !self.start.is_multiple_of(PAGE_SIZE) {
            return Err(Refused::new("start", aligned));
        }
        if self.length == 0 || !self.length.is_multiple_of(PAGE_SIZE) {
            return Err(Refused::new("length", aligned + " and not 0"));
        }
        AddressRange::new(self.start, self.length).map_err(|error| Refused::new("length", error.to_string()))
    }
}

/// The answer to POST /memory/discard; the three add up to the length of the range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Discarded {
    /// Bytes handed back to the host as whole pages.
    pub freed_bytes: u64,
    /// Bytes of huge pages that reach beyond the range: they stay, with zeros there.
    pub zeroed_bytes: u64,
    /// Bytes that devices have pinned: they stay as they are.
    pub pinned_bytes: u64,
}

/// The body of PUT /memory/policy: what is asked for in a range, or in all of guest RAM. What is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryPolicy {
    /// Where; everywhere if left out.
    pub range: Option<MemoryRange>,
    /// Whether huge pages are used.
    pub huge: Option<HugePolicyName>,
    /// Whether writes are tracked.
    pub dirty_tracked: Option<bool>,
    /// Whether pages of equal content may be made one.
    pub mergeable: Option<bool>,
    /// What reports call it.
    pub name: Option<String>,
}

impl MemoryPolicy {
    pub(crate) fn check(&self) -> Result<(), Refused> {
        self.range.map(MemoryRange::check).transpose()?;
        let asks = self.huge.is_some()
            || self.dirty_tracked.is_some()
            || self.mergeable.is_some()
            || self.name.is_some();
        if asks {
            return Ok(());
        }
        Err(Refused::new("huge", "nothing is asked for: give huge, dirty_tracked, mergeable or name"))
    }
}
