//! What it brings that underlay resolves the faults: each managed backing beside that of the kernel's which has pages of
//! the same size.

use serde::{Deserialize, Serialize};

use super::format::float;
use super::setup::by_setup;
use super::{Latency, Run, Setup};

/// Which backing of the kernel's a managed one is held against.
const COUNTERPARTS: [(&str, &str); 3] = [
    ("managed_4kb", "anonymous"),
    ("managed_thp", "anonymous_thp"),
    ("managed_2mb", "anonymous_hugetlb_2mb"),
];

/// The figures of a managed backing, each divided by that of its counterpart of the same run. Below 1 is better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The managed backing.
    pub backing: String,
    /// The kernel-resolved one.
    pub to: String,
    /// Of the median wall times.
    pub wall: Option<f64>,
    /// Of the median processor times.
    pub cpu: Option<f64>,
    /// Of the medians of those first touches that were slow: the ones that faulted.
    pub slow_p50: Option<f64>,
    /// Of their 99th percentiles.
    pub slow_p99: Option<f64>,
    /// Of the medians, counting of the managed backing only those touches that underlay's handlers resolved, and none
    /// whose page it had mapped before, so that KVM alone resolved them.
    pub handled_p50: Option<f64>,
    /// Of the 99th percentiles, likewise.
    pub handled_p99: Option<f64>,
}

impl Ratio {
    /// The ratios of every managed run that has its counterpart among `runs` of the same setup.
    #[must_use]
    pub fn among(runs: &[Run]) -> Vec<Self> {
        let groups = by_setup(runs, Setup::of);
        groups.iter().flat_map(|(_, runs)| runs.iter().filter_map(|run| Self::of(run, runs))).collect()
    }

    fn of(run: &Run, runs: &[&Run]) -> Option<Self> {
        let (_, counterpart) = COUNTERPARTS.iter().find(|(managed, _)| *managed == run.backing)?;
        let to = runs.iter().find(|other| other.backing == *counterpart)?;
        let slow = |part: fn(&Latency) -> f64| {
            let (a, b) = run.slow_touch_ns.as_ref().zip(to.slow_touch_ns.as_ref())?;
            ratio(part(a), part(b))
        };
        let stages = run.managed.as_ref().and_then(|managed| managed.stages.as_ref());
        let handled = |part: fn(&Latency) -> f64| {
            let (a, b) = stages.zip(to.slow_touch_ns.as_ref())?;
            (a.faults > 0).then(|| ratio(part(&a.touch_ns), part(b)))?
        };
        Some(Self {
            backing: run.backing.clone(),
            to: to.backing.clone(),
            wall: ratio(float(run.wall_ns.median), float(to.wall_ns.median)),
            cpu: ratio(float(run.cpu_ns.median), float(to.cpu_ns.median)),
            slow_p50: slow(|latency| latency.p50),
            slow_p99: slow(|latency| latency.p99),
            handled_p50: handled(|latency| latency.p50),
            handled_p99: handled(|latency| latency.p99),
        })
    }
}

fn ratio(value: f64, base: f64) -> Option<f64> {
    (base > 0.0).then(|| value / base)
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_managed_run_is_held_against_its_counterpart() {
        let runs = [fixture::report().runs, vec![fixture::managed()]].concat();

        let ratios = Ratio::among(&runs);

        assert_eq!(ratios.len(), 1);
        assert_eq!(
            (ratios[0].backing.as_str(), ratios[0].to.as_str()),
            ("managed_2mb", "anonymous_hugetlb_2mb")
        );
        assert_eq!(ratios[0].wall, Some(0.2));
        assert_eq!((ratios[0].slow_p50, ratios[0].handled_p50), (Some(0.4), Some(0.3)));
    }

    #[test]
    fn a_run_of_another_setup_is_no_counterpart() {
        let managed = Run { vcpus: 2, ..fixture::managed() };
        let runs = [fixture::report().runs, vec![managed]].concat();

        assert_eq!(Ratio::among(&runs), []);
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        let mut kernel = fixture::report().runs.swap_remove(1);
        kernel.wall_ns.median = 0;
        kernel.slow_touch_ns = None;

        let ratios = Ratio::among(&[kernel, fixture::managed()]);

        assert_eq!((ratios[0].wall, ratios[0].slow_p50), (None, None));
    }
}
