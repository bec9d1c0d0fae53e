//! The JSON that `underlay measure --json` writes and `underlay compare` reads: schema 1.
//!
//! Keys are stable: a later version may add keys, and readers pass over those they do not know; a key that changes
//! its meaning or goes away raises [`SCHEMA`]. Durations are nanoseconds, sizes are bytes, counts are of one sample.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Managed, Ratio};

/// The version of the format.
pub const SCHEMA: u32 = 1;

/// Everything one `underlay measure` found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`] of the program that wrote it.
    pub schema: u32,
    /// The machine it ran on.
    pub host: Host,
    /// What about that machine spoils the figures; empty is good.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// One entry for each backing that was measured, in the order of the command line.
    pub runs: Vec<Run>,
    /// Each managed backing beside the one of the same pages whose faults the kernel resolved.
    #[serde(default)]
    pub ratios: Vec<Ratio>,
    /// What was not measured, and why.
    pub skipped: Vec<Skipped>,
}

/// The machine that the figures come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// The kernel's release.
    pub kernel: String,
    /// The processor's model name.
    pub cpu: String,
    /// KVM's vendor module.
    pub kvm_vendor: String,
    /// `EPT`, `NPT`, `shadow` or `unknown`.
    pub second_stage: String,
    /// The chosen word of `/sys/kernel/mm/transparent_hugepage/enabled`.
    pub thp: String,
    /// The chosen word of `/sys/kernel/mm/transparent_hugepage/shmem_enabled`.
    pub shmem_thp: String,
    /// The pool of 2 MiB pages.
    pub hugepages_2m: Pool,
    /// The pool of 1 GiB pages.
    pub hugepages_1g: Pool,
    /// The frequency of the guest's time stamp counter.
    pub tsc_khz: u32,
    /// The version of underlay.
    pub version: String,
    /// What else moves such figures, each as the kernel shows it; `absent` where this kernel has no such thing.
    pub environment: BTreeMap<String, String>,
}

/// A pool of huge pages, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// How many there are.
    pub total: u64,
    /// How many of them nobody uses; some may be reserved.
    pub free: u64,
}

/// What was measured of one backing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The backing's name.
    pub backing: String,
    /// What ran the guest and translated its addresses: `kvm`, or `model`, the software second stage, whose vCPUs are
    /// threads of the host, whose faults are counted as KVM's, and whose frames are numbers.
    #[serde(default = "kvm")]
    pub accel: String,
    /// Who resolved the guest's faults: `kernel` or `underlay`.
    pub resolved_by: String,
    /// The guest's RAM.
    pub mem_bytes: u64,
    /// The size of the pages with which the guest maps it.
    pub guest_page_bytes: u64,
    /// How many vCPUs touched it.
    pub vcpus: u32,
    /// Whether each of them touched all of it, instead of a part of its own.
    #[serde(default)]
    pub overlap: bool,
    /// `write`, `read` or `read-write`.
    pub access: String,
    /// `sequential`, `random` or `stride:BYTES`.
    pub pattern: String,
    /// Whether the host's pages were populated before the guest ran.
    #[serde(default)]
    pub prefault: bool,
    /// What selected the random order; `null` for the other patterns, which need none.
    #[serde(default)]
    pub seed: Option<u64>,
    /// The host's CPUs that the vCPU threads were pinned to, in turn; empty where they were not.
    #[serde(default)]
    pub pin: Vec<usize>,
    /// The NUMA node that the RAM was bound to; `null` where it was not.
    #[serde(default)]
    pub numa_node: Option<u32>,
    /// How many samples the figures are of, the warm-up not counted.
    pub samples: u32,
    /// First touches in one sample, over all vCPUs.
    pub touches: u64,
    /// From the moment all vCPUs started to the moment the last had touched everything once, over the samples.
    pub wall_ns: Spread,
    /// Processor time of all threads to make RAM, to zero ahead and for the first touches, over the samples.
    #[serde(default)]
    pub cpu_ns: Spread,
    /// How long a first touch took, over all samples; the cost of taking the time is subtracted.
    pub first_touch_ns: Latency,
    /// The same for the second touch of the same words.
    pub second_touch_ns: Latency,
    /// What was subtracted in the median sample: the mean cost of a pair of time stamps around nothing, in the same
    /// guest. Each sample measures and subtracts its own.
    #[serde(default)]
    pub timer_ns: f64,
    /// How far apart neighbouring values of the guest's time stamps lie in the median sample: shorter durations cannot
    /// be told apart. Zero if none was seen.
    #[serde(default)]
    pub timer_step_ns: f64,
    /// First touches that took longer than [`SLOW_NS`], in the median sample.
    #[serde(default)]
    pub slow_touches: u64,
    /// How long the first touches took that took longer than [`SLOW_NS`], over all samples; `null` if none did.
    #[serde(default)]
    pub slow_touch_ns: Option<Latency>,
    /// The faults that KVM took during the first touches of the median sample.
    pub kvm: KvmFaults,
    /// What the second stage held for RAM after the median sample.
    pub mapped: Mapped,
    /// What the host's kernel counted for the vCPU threads during the first touches of the median sample.
    pub host_faults: HostFaults,
    /// Resident bytes of guest RAM after the median sample; `null` where the host has no true figure.
    pub resident_bytes: Option<u64>,
    /// What underlay did where it resolved the faults; `null` where the kernel did.
    #[serde(default)]
    pub managed: Option<Managed>,
    /// The wall time of each sample, in the order in which they ran.
    #[serde(default)]
    pub sample_wall_ns: Vec<u64>,
    /// The median first touch of each sample, in the same order.
    #[serde(default)]
    pub sample_first_touch_p50_ns: Vec<f64>,
    /// What must agree, and whether it did.
    pub checks: Vec<Check>,
}

/// What ran the guests of reports that do not say it.
pub(super) fn kvm() -> String {
    "kvm".to_owned()
}

/// A touch that took longer is called slow: longer than any memory takes, shorter than any fault of KVM's.
pub const SLOW_NS: f64 = 1000.0;

/// The smallest, the median and the largest of the samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// The smallest.
    pub min: u64,
    /// The median; of an even number, the smaller of the middle two.
    pub median: u64,
    /// The largest.
    pub max: u64,
}

/// A distribution of durations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half took at most this.
    pub p50: f64,
    /// 90% took at most this.
    pub p90: f64,
    /// 99% took at most this.
    pub p99: f64,
    /// 99.9% took at most this.
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

/// KVM's per-vCPU fault statistics, added over the vCPUs. They count faults, not pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmFaults {
    /// Faults that KVM took.
    pub pf_taken: u64,
    /// Those that ended with a translation installed.
    pub pf_fixed: u64,
    /// Those that found the translation there already.
    pub pf_spurious: u64,
    /// Those that ended in the emulation of the instruction: each doorbell is one.
    pub pf_emulate: u64,
    /// Those that were the guest's own and handed to it.
    #[serde(default)]
    pub pf_guest: u64,
}

/// How many pages of each size the second stage maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapped {
    /// Pages of 4 KiB.
    pub pages_4k: u64,
    /// Pages of 2 MiB.
    pub pages_2m: u64,
    /// Pages of 1 GiB.
    pub pages_1g: u64,
}

/// Page faults that the host's kernel took in the vCPU threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFaults {
    /// Without input or output.
    pub minor: u64,
    /// With.
    pub major: u64,
}

/// One statement that the figures should bear out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What it is called; stable.
    pub name: String,
    /// Whether the figures agree.
    pub ok: bool,
    /// The figures.
    pub detail: String,
}

/// A backing that was not measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The backing's name.
    pub backing: String,
    /// Why not.
    pub reason: String,
    /// What would make it possible: a command, where one does.
    pub enable: Option<String>,
}
