use proptest::prelude::*;

use super::super::{Spread, fixture};
use super::Verdict::{LargerThanSpread, TooFewSamples};
use super::*;

fn shown(comparison: &Comparison, width: Option<u16>) -> String {
    let mut out = Vec::new();
    write_comparison(comparison, width, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// As [`fixture::report`], but of another machine, on which `anonymous` is faster.
fn other() -> Report {
    let mut report = fixture::report();
    report.host.kernel = "6.19.1".to_owned();
    report.host.environment.clear();
    report.warnings.clear();
    report.runs[0].wall_ns = Spread { min: 226_000_000, median: 240_000_000, max: 260_000_000 };
    report.runs[0].kvm.pf_taken = 16_386;
    report.runs[0].resident_bytes = None;
    report
}

fn with_samples(number: usize, from: u32) -> Samples {
    let values: Vec<f64> = (from..).take(number).map(f64::from).collect();
    Samples::of(&values).unwrap()
}

#[test]
fn a_comparison_reads_like_this() {
    let mut b = other();
    b.runs.push(Run { backing: "shmem".to_owned(), ..b.runs[0].clone() });
    let mut a = fixture::report();
    a.runs.push(Run { vcpus: 2, ..a.runs[0].clone() });

    let expected = "\
The hosts DIFFER, so that ratios mean less
host                       A       B
─────────────────────────────────────────
kernel                     6.18.0  6.19.1
environment.nx_huge_pages  Y       -

Warnings of A
KSM is running: it merges and write-protects guest pages

run  64 MiB of RAM, not prefaulted; guest pages 2 MiB; 1 vCPU; access write, pattern sequential

backing                      A        B    B/A  difference
──────────────────────────────────────────────────────────────────────────────────────────────────────
anonymous
  wall                  480 ms   240 ms  0.500  larger than the spread
  first touch p50      28.0 µs  28.0 µs   1.00  within the spread
  first touch p99      45.0 µs  45.0 µs   1.00  -
  second touch p50     15.5 ns  15.5 ns   1.00  -
  KVM faults            16,385   16,386   1.00  differs
  resident              64 MiB        -      -  -
anonymous_hugetlb_2mb                           A DISAGREES: faults_add_up; B DISAGREES: faults_add_up
  wall                 8.25 ms  8.25 ms   1.00  within the spread
  first touch p50      15.5 ns  15.5 ns   1.00  within the spread
  first touch p99      28.5 ns  28.5 ns   1.00  -
  second touch p50     15.5 ns  15.5 ns   1.00  -
  KVM faults                36       36   1.00  equal
  resident                   -        -      -  -

Only in A
anonymous: 64 MiB of RAM, not prefaulted; guest pages 2 MiB; 2 vCPUs that touch a part each; access write, pattern
sequential

Only in B
shmem: 64 MiB of RAM, not prefaulted; guest pages 2 MiB; 1 vCPU; access write, pattern sequential

Larger than the spread: the samples of A and B do not overlap, which is chance in at most 1 of 20 cases. Counts are
exact. A dash: nothing to judge by.
";
    assert_eq!(shown(&compare(&a, &b), Some(120)), expected);
}

#[test]
fn a_report_equals_itself() {
    let comparison = compare(&fixture::report(), &fixture::report());

    assert_eq!(comparison.host_differences, []);
    assert_eq!((comparison.only_in_a.len(), comparison.only_in_b.len()), (0, 0));
    assert_eq!(comparison.runs[0].wall_ns.ratio, Some(1.0));
    assert_eq!(comparison.runs[0].wall_ns.verdict, Verdict::WithinSpread);
    assert_eq!(comparison.runs[0].kvm_pf_taken.verdict, Verdict::Equal);
}

#[test]
fn hosts_differ_in_what_the_environment_says_too() {
    let comparison = compare(&fixture::report(), &other());

    let differences: Vec<(&str, Option<&str>, Option<&str>)> = comparison
        .host_differences
        .iter()
        .map(|found| (found.key.as_str(), found.a.as_deref(), found.b.as_deref()))
        .collect();
    assert_eq!(
        differences,
        [("kernel", Some("6.18.0"), Some("6.19.1")), ("environment.nx_huge_pages", Some("Y"), None)]
    );
}

#[test]
fn stolen_time_is_no_difference_of_the_hosts() {
    let (a, mut b) = (fixture::report(), fixture::report());
    b.host.environment.insert(STEAL_PERCENT.to_owned(), "3.1".to_owned());

    assert_eq!(compare(&a, &b).host_differences, []);
}

#[test]
fn each_part_of_the_setup_tells_runs_apart() {
    let changes: [fn(&mut Run); 8] = [
        |run| run.backing.push('x'),
        |run| run.mem_bytes *= 2,
        |run| run.guest_page_bytes = 4096,
        |run| run.vcpus = 2,
        |run| run.overlap = true,
        |run| run.access = "read".to_owned(),
        |run| run.pattern = "random".to_owned(),
        |run| run.prefault = true,
    ];
    let a = Report { runs: vec![fixture::report().runs.remove(0)], ..fixture::report() };

    let matched = changes.map(|change| {
        let mut b = a.clone();
        change(&mut b.runs[0]);
        compare(&a, &b).runs.len()
    });

    assert_eq!(matched, [0; 8]);
}

#[test]
fn runs_of_one_key_are_matched_in_their_order() {
    let mut a = fixture::report();
    a.runs[1] = a.runs[0].clone();
    let mut b = a.clone();
    b.runs[1].kvm.pf_taken = 1;

    let comparison = compare(&a, &b);

    let verdicts: Vec<Verdict> = comparison.runs.iter().map(|run| run.kvm_pf_taken.verdict).collect();
    assert_eq!(verdicts, [Verdict::Equal, Verdict::Differs]);
}

#[test]
fn apart_is_larger_than_the_spread_from_four_samples_a_side() {
    let verdicts = [1, 2, 3, 4].map(|number| with_samples(number, 0).verdict(with_samples(number, 100)));

    assert_eq!(verdicts, [TooFewSamples, TooFewSamples, TooFewSamples, LargerThanSpread]);
}

#[test]
fn samples_that_touch_overlap() {
    assert_eq!(with_samples(5, 0).verdict(with_samples(5, 4)), Verdict::WithinSpread);
    assert_eq!(with_samples(5, 0).verdict(with_samples(5, 5)), LargerThanSpread);
}

#[test]
fn a_report_without_medians_per_sample_is_not_judged_by_them() {
    let mut old = fixture::report();
    old.runs[0].sample_first_touch_p50_ns.clear();

    let comparison = compare(&old, &fixture::report());

    assert_eq!(comparison.runs[0].first_touch_p50_ns.verdict, Verdict::NotJudged);
    assert_eq!(comparison.runs[0].wall_ns.verdict, Verdict::WithinSpread);
}

#[test]
fn nothing_is_not_divided_by() {
    let mut a = fixture::report();
    a.runs[0].kvm.pf_taken = 0;

    let comparison = compare(&a, &fixture::report());

    assert_eq!(comparison.runs[0].kvm_pf_taken.ratio, None);
}

#[test]
fn the_keys_of_the_json_are_stable() {
    let json = serde_json::to_value(compare(&fixture::report(), &other())).unwrap();

    let keys: Vec<&String> = json["runs"][0].as_object().unwrap().keys().collect();
    let expected = [
        "accel",
        "access",
        "backing",
        "failed_checks_a",
        "failed_checks_b",
        "first_touch_p50_ns",
        "first_touch_p99_ns",
        "guest_page_bytes",
        "kvm_pf_taken",
        "managed",
        "mem_bytes",
        "numa_node",
        "overlap",
        "pattern",
        "pin",
        "prefault",
        "resident_bytes",
        "second_touch_p50_ns",
        "seed",
        "vcpus",
        "wall_ns",
    ];
    assert_eq!(keys, expected);
    assert_eq!(
        json["runs"][0]["wall_ns"],
        serde_json::json!({"a": 480_000_000, "b": 240_000_000, "ratio": 0.5, "verdict": "larger_than_spread"})
    );
}

#[test]
fn reports_without_a_common_run_say_so() {
    let empty = Report { runs: Vec::new(), ..fixture::report() };

    let text = shown(&compare(&empty, &fixture::report()), Some(120));

    assert!(text.contains("No run is in both"));
    assert!(text.contains("\nOnly in B\nanonymous: 64 MiB"));
}

proptest! {
    #[test]
    fn the_comparison_is_the_same_from_both_sides(low in 0_u32..20, n in 1_usize..9, m in 1_usize..9) {
        let (a, b) = (with_samples(n, 10), with_samples(m, low));

        prop_assert_eq!(a.verdict(b), b.verdict(a));
    }

    #[test]
    fn separation_is_as_rare_as_counting_the_orders_says(n in 0_u32..12, m in 0_u32..12) {
        // Of all ways to choose the places of n among n + m samples, two put them all at one end.
        let ways = (1..=u64::from(n)).fold(1, |ways, k| ways * (u64::from(m) + k) / k);

        prop_assert_eq!(separation_is_rare(n, m), n > 0 && m > 0 && 40 <= ways);
    }

    #[test]
    fn every_width_will_do(width: u16) {
        prop_assert!(shown(&compare(&fixture::report(), &other()), Some(width)).contains("480 ms"));
    }
}
