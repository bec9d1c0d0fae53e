//! Two reports, run by run.

mod text;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::text::write_comparison;

use super::format::float;
use super::{Host, ManagedSetup, Report, Run, Setup};
use crate::host::STEAL_PERCENT;

/// The version of [`Comparison`]'s JSON. It is raised as [`SCHEMA`](super::SCHEMA) is.
pub const COMPARISON_SCHEMA: u32 = 1;

/// How report B differs from report A.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// [`COMPARISON_SCHEMA`] of the program that wrote it.
    pub schema: u32,
    /// What differs between the machines; where there is anything, ratios mean less.
    pub host_differences: Vec<HostDifference>,
    /// What spoiled the figures of A.
    pub warnings_a: Vec<String>,
    /// What spoiled the figures of B.
    pub warnings_b: Vec<String>,
    /// The runs that both have, in the order of A. Where one has several of the same key, the first goes with the
    /// first, the second with the second, and so on.
    pub runs: Vec<RunComparison>,
    /// The runs that only A has.
    pub only_in_a: Vec<RunKey>,
    /// The runs that only B has.
    pub only_in_b: Vec<RunKey>,
}

/// A fact in which the machines differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDifference {
    /// The key of [`Host`], or `environment.` and a key of its environment.
    pub key: String,
    /// Its value in A; `null` where it has none.
    pub a: Option<String>,
    /// Its value in B; `null` where it has none.
    pub b: Option<String>,
}

/// By what runs are matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunKey {
    /// The backing's name.
    pub backing: String,
    /// What else was asked of the run.
    #[serde(flatten)]
    pub setup: Setup,
    /// How it was run, if it is a managed backing.
    #[serde(default)]
    pub managed: Option<ManagedSetup>,
}

/// The figures of a run that both reports have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunComparison {
    /// Which run.
    #[serde(flatten)]
    pub key: RunKey,
    /// The median wall time, judged by the wall times of the samples.
    pub wall_ns: Figure<u64>,
    /// The median first touch, judged by the medians of the samples.
    pub first_touch_p50_ns: Figure<f64>,
    /// The 99th percentile of the first touches; not judged.
    pub first_touch_p99_ns: Figure<f64>,
    /// The median second touch; not judged.
    pub second_touch_p50_ns: Figure<f64>,
    /// The faults that KVM took, a count.
    pub kvm_pf_taken: Figure<u64>,
    /// Resident bytes of guest RAM, a count; `null` where unknown.
    pub resident_bytes: Figure<Option<u64>>,
    /// The checks that disagree in A, by name: its figures are in doubt.
    pub failed_checks_a: Vec<String>,
    /// The checks that disagree in B.
    pub failed_checks_b: Vec<String>,
}

/// A figure of both sides.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure<T> {
    /// In A.
    pub a: T,
    /// In B.
    pub b: T,
    /// B / A; `null` where A is zero or one of them unknown.
    pub ratio: Option<f64>,
    /// What to make of the difference.
    pub verdict: Verdict,
}

/// What to make of a difference.
///
/// A figure that has a value for each sample differs by more than its spread when the samples of A and of B do not
/// overlap: every one of one side is below every one of the other. Samples of the same distribution, n and m of them,
/// fall so with a probability of 2 / C(n + m, n), which is the smallest p-value that the two-sided exact Mann-Whitney
/// test can give; it counts only where that is at most 5%, so from 4 samples a side. What this cannot tell is a
/// change of the code from a change of the machine between the two measurements: measure A B A B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The samples of A and B do not overlap.
    LargerThanSpread,
    /// They overlap.
    WithinSpread,
    /// They do not overlap, but are so few that this may well be chance.
    TooFewSamples,
    /// A count that is the same.
    Equal,
    /// A count that is not.
    Differs,
    /// There is nothing to judge by: the figure has no value for each sample, or is unknown on a side.
    NotJudged,
}

/// Compares B with A.
#[must_use]
pub fn compare(a: &Report, b: &Report) -> Comparison {
    let mut unmatched: Vec<&Run> = b.runs.iter().collect();
    let (mut runs, mut only_in_a) = (Vec::new(), Vec::new());
    for run in &a.runs {
        let key = RunKey::of(run);
        match unmatched.iter().position(|other| RunKey::of(other) == key) {
            Some(index) => runs.push(RunComparison::of(key, run, unmatched.remove(index))),
            None => only_in_a.push(key),
        }
    }
    Comparison {
        schema: COMPARISON_SCHEMA,
        host_differences: host_differences(&a.host, &b.host),
        warnings_a: a.warnings.clone(),
        warnings_b: b.warnings.clone(),
        runs,
        only_in_a,
        only_in_b: unmatched.into_iter().map(RunKey::of).collect(),
    }
}

impl RunKey {
    /// The key of `run`.
    #[must_use]
    pub fn of(run: &Run) -> Self {
        Self {
            backing: run.backing.clone(),
            setup: Setup::of(run),
            managed: run.managed.as_ref().map(|managed| managed.setup.clone()),
        }
    }
}

impl RunComparison {
    fn of(key: RunKey, a: &Run, b: &Run) -> Self {
        let medians = |run: &Run| Samples::of(&run.sample_first_touch_p50_ns);
        let resident = a.resident_bytes.zip(b.resident_bytes);
        Self {
            key,
            wall_ns: Figure {
                a: a.wall_ns.median,
                b: b.wall_ns.median,
                ratio: ratio(float(a.wall_ns.median), float(b.wall_ns.median)),
                verdict: Samples::of_walls(a).verdict(Samples::of_walls(b)),
            },
            first_touch_p50_ns: Figure {
                verdict: medians(a).zip(medians(b)).map_or(Verdict::NotJudged, |(a, b)| a.verdict(b)),
                ..Figure::not_judged(a.first_touch_ns.p50, b.first_touch_ns.p50)
            },
            first_touch_p99_ns: Figure::not_judged(a.first_touch_ns.p99, b.first_touch_ns.p99),
            second_touch_p50_ns: Figure::not_judged(a.second_touch_ns.p50, b.second_touch_ns.p50),
            kvm_pf_taken: Figure {
                a: a.kvm.pf_taken,
                b: b.kvm.pf_taken,
                ratio: ratio(float(a.kvm.pf_taken), float(b.kvm.pf_taken)),
                verdict: count_verdict(a.kvm.pf_taken, b.kvm.pf_taken),
            },
            resident_bytes: Figure {
                a: a.resident_bytes,
                b: b.resident_bytes,
                ratio: resident.and_then(|(a, b)| ratio(float(a), float(b))),
                verdict: resident.map_or(Verdict::NotJudged, |(a, b)| count_verdict(a, b)),
            },
            failed_checks_a: failed_checks(a),
            failed_checks_b: failed_checks(b),
        }
    }
}

impl Figure<f64> {
    fn not_judged(a: f64, b: f64) -> Self {
        Self { a, b, ratio: ratio(a, b), verdict: Verdict::NotJudged }
    }
}

/// The samples of a figure, as far as a verdict needs them.
#[derive(Clone, Copy)]
struct Samples {
    number: u32,
    min: f64,
    max: f64,
}

impl Samples {
    fn of(values: &[f64]) -> Option<Self> {
        let number = u32::try_from(values.len()).ok().filter(|number| *number > 0)?;
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(Self { number, min, max })
    }

    /// From the spread, which every report has.
    fn of_walls(run: &Run) -> Self {
        Self { number: run.samples, min: float(run.wall_ns.min), max: float(run.wall_ns.max) }
    }

    fn verdict(self, other: Self) -> Verdict {
        if self.min <= other.max && other.min <= self.max {
            Verdict::WithinSpread
        } else if separation_is_rare(self.number, other.number) {
            Verdict::LargerThanSpread
        } else {
            Verdict::TooFewSamples
        }
    }
}

/// Whether `n` and `m` samples of one distribution fall apart with a probability of at most 5%: 2 n! m! / (n + m)!,
/// as a product whose factors are all less than one.
fn separation_is_rare(n: u32, m: u32) -> bool {
    let mut probability = 2.0;
    m > 0
        && (1..=n).map(f64::from).any(|k| {
            probability *= k / (f64::from(m) + k);
            probability <= 0.05
        })
}

fn failed_checks(run: &Run) -> Vec<String> {
    run.checks.iter().filter(|check| !check.ok).map(|check| check.name.clone()).collect()
}

fn count_verdict(a: u64, b: u64) -> Verdict {
    if a == b { Verdict::Equal } else { Verdict::Differs }
}

fn ratio(a: f64, b: f64) -> Option<f64> {
    (a > 0.0).then_some(b / a)
}

fn host_differences(a: &Host, b: &Host) -> Vec<HostDifference> {
    let facts = |host: &Host| {
        [
            ("kernel", host.kernel.clone()),
            ("cpu", host.cpu.clone()),
            ("kvm_vendor", host.kvm_vendor.clone()),
            ("second_stage", host.second_stage.clone()),
            ("thp", host.thp.clone()),
            ("shmem_thp", host.shmem_thp.clone()),
            ("tsc_khz", host.tsc_khz.to_string()),
            ("version", host.version.clone()),
        ]
    };
    let named =
        facts(a).into_iter().zip(facts(b)).map(|((key, a), (_, b))| (key.to_owned(), Some(a), Some(b)));
    let keys = a.environment.keys().chain(b.environment.keys());
    // What was stolen is of the run, not of the host: it differs always, and has a warning of its own.
    let keys: BTreeSet<&String> = keys.filter(|key| *key != STEAL_PERCENT).collect();
    let environment = keys.into_iter().map(|key| {
        (format!("environment.{key}"), a.environment.get(key).cloned(), b.environment.get(key).cloned())
    });
    named
        .chain(environment)
        .filter(|(_, a, b)| a != b)
        .map(|(key, a, b)| HostDifference { key, a, b })
        .collect()
}

#[cfg(test)]
mod tests;
