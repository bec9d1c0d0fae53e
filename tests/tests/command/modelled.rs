//! `measure --accel model`: no KVM, no huge pages, no memory, and the same report.

use serde_json::Value;
use underlay_tests::{Suite, underlay};

pub(crate) fn add_to(suite: &mut Suite) {
    suite.test("model::reports_by_the_same_schema", &[], same_schema);
    suite.test("model::measures_a_tebibyte", &[], a_tebibyte);
    suite.test("model::refuses_what_the_kernel_resolves", &[], kernel_resolved);
}

/// The runs of a short measurement without KVM.
#[track_caller]
fn measured(options: &[&str]) -> Vec<Value> {
    let short = ["measure", "--accel", "model", "--samples", "1", "--json", "-"];
    let finished = underlay(&[&short, options].concat());
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    report["runs"].as_array().unwrap().clone()
}

fn same_schema() {
    let runs = measured(&["--mem", "4M", "--vcpus", "2", "--backing", "managed_4kb,managed_2mb"]);

    assert_eq!(runs.len(), 2);
    let mapped =
        runs.iter().map(|run| (run["mapped"]["pages_4k"].as_u64(), run["mapped"]["pages_2m"].as_u64()));
    assert_eq!(mapped.collect::<Vec<_>>(), [(Some(1024), Some(0)), (Some(0), Some(2))]);
    for run in &runs {
        assert_eq!((&run["accel"], &run["resolved_by"]), (&"model".into(), &"underlay".into()));
        assert_eq!((&run["touches"], &run["resident_bytes"]), (&1024.into(), &(4 << 20).into()));
        let failed: Vec<_> =
            run["checks"].as_array().unwrap().iter().filter(|check| check["ok"] != true).collect();
        assert!(failed.is_empty(), "{failed:?}");
    }
}

fn a_tebibyte() {
    let huge = measured(&["--mem", "1T", "--backing", "managed_2mb", "--pattern", "stride:1G"]);
    let base = measured(&["--mem", "1T", "--backing", "managed_4kb", "--pattern", "stride:4G"]);

    assert_eq!(huge[0]["mapped"]["pages_2m"], 1024);
    assert_eq!(base[0]["mapped"]["pages_4k"], 256);
}

fn kernel_resolved() {
    let finished = underlay(&["measure", "--accel", "model", "--backing", "anonymous"]);

    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("anonymous with --accel model"), "{}", finished.stderr);
    assert!(finished.stderr.contains("managed_4kb"), "says what to use: {}", finished.stderr);
}
