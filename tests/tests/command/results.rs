//! What comes out: tables for people, JSON and CSV for programs, all of the same figures.

use std::fs;

use serde_json::Value;
use underlay_tests::{Need, Suite, underlay};

pub(crate) fn add_to(suite: &mut Suite) {
    suite.test("measure::tables_json_csv_and_touches_agree", &[Need::Kvm], all_outputs);
    suite.test("measure::json_has_every_promised_key", &[Need::Kvm], promised_keys);
    suite.test("measure::names_what_it_skips_and_how_to_enable_it", &[Need::Kvm], skips);
    suite.test("compare::of_a_result_with_itself_finds_nothing", &[Need::Kvm], compare_with_itself);
    suite.test("measure::smaps_tells_the_memory_of_managed_ram", &[Need::Kvm, Need::ManagedFaults], smaps);
    suite.test("host::says_what_there_is", &[], host);
    suite.test("startup::reaches_the_guest", &[Need::Kvm], startup);
    suite.test("help::names_every_option", &[], help);
}

/// A short measurement of two backings that every host has.
const SHORT: [&str; 7] = ["measure", "--backing", "anonymous,shmem", "--mem", "2M", "--samples", "2"];

#[track_caller]
fn measured(more: &[&str]) -> underlay_tests::Finished {
    let finished = underlay(&[&SHORT, more].concat());
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.stderr, "", "no progress where stderr is no terminal");
    finished
}

#[track_caller]
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn all_outputs() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (json_path, csv_path, touches_path) = (path("a.json"), path("a.csv"), path("touches.csv"));

    let tables = measured(&["--json", &json_path, "--csv", &csv_path, "--samples-out", &touches_path]).stdout;

    let report = json(&fs::read_to_string(json_path).unwrap());
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    assert!(tables.contains("anonymous") && tables.contains("shmem"), "{tables}");
    assert_eq!(fs::read_to_string(csv_path).unwrap().lines().count(), 1 + 2);
    for run in runs {
        assert_eq!(run["touches"], 512);
        assert_eq!(run["mapped"]["pages_4k"], 512);
        assert_eq!(run["resident_bytes"], 2 << 20);
    }

    // Two backings, two samples, two passes, 512 pages: each page once in each.
    let touches = fs::read_to_string(touches_path).unwrap();
    let mut lines: Vec<Vec<&str>> = touches.lines().skip(1).map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.len(), 2 * 2 * 2 * 512);
    lines.retain(|line| line[..4] == ["shmem", "2", "0", "1"]);
    let pages: Vec<_> = lines.iter().map(|line| line[5].to_owned()).collect();
    let expected: Vec<_> = (0..512_u64).map(|page| format!("{:#x}", (4_u64 << 30) + page * 4096)).collect();
    assert_eq!(pages, expected);
    let slowest = lines.iter().map(|line| line[6].parse::<f64>().unwrap()).fold(0.0, f64::max);
    assert!(slowest <= runs[1]["first_touch_ns"]["max"].as_f64().unwrap() * 1.001, "{slowest}");
}

/// The key paths of the documented schema.
const PROMISED: &str = "schema host.kernel host.cpu host.kvm_vendor host.second_stage host.thp host.shmem_thp \
    host.hugepages_2m host.hugepages_1g host.tsc_khz host.version host.environment warnings skipped.0.backing \
    skipped.0.reason skipped.0.enable runs.0.backing runs.0.accel runs.0.resolved_by runs.0.mem_bytes runs.0.guest_page_bytes \
    runs.0.vcpus runs.0.access runs.0.pattern runs.0.seed runs.0.pin runs.0.numa_node runs.0.samples runs.0.touches runs.0.wall_ns.min runs.0.wall_ns.median \
    runs.0.wall_ns.max runs.0.first_touch_ns.p50 runs.0.first_touch_ns.p90 runs.0.first_touch_ns.p99 \
    runs.0.first_touch_ns.p999 runs.0.first_touch_ns.max runs.0.first_touch_ns.mean runs.0.second_touch_ns.p50 \
    runs.0.second_touch_ns.p90 runs.0.second_touch_ns.p99 runs.0.second_touch_ns.p999 runs.0.second_touch_ns.max \
    runs.0.second_touch_ns.mean runs.0.kvm.pf_taken runs.0.kvm.pf_fixed runs.0.kvm.pf_spurious \
    runs.0.kvm.pf_emulate runs.0.mapped.pages_4k runs.0.mapped.pages_2m runs.0.mapped.pages_1g \
    runs.0.cpu_ns.median runs.0.slow_touch_ns.p99 runs.0.managed ratios runs.0.host_faults.minor runs.0.host_faults.major runs.0.resident_bytes runs.0.checks.0.name runs.0.checks.0.ok \
    runs.0.checks.0.detail";

fn promised_keys() {
    let finished = underlay(&["measure", "--mem", "2M", "--samples", "1", "--json", "-"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let report = json(&finished.stdout);

    for path in PROMISED.split_whitespace() {
        let pointer = format!("/{}", path.replace('.', "/"));
        assert!(report.pointer(&pointer).is_some(), "{path} is missing");
    }
    assert_eq!(report["schema"], 1);
    assert_eq!(report["runs"][0]["resolved_by"], "kernel");
}

fn smaps() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("smaps");
    let backings = "anonymous,managed_4kb";
    let arguments =
        ["measure", "--backing", backings, "--mem", "4M", "--samples", "1", "--json", "-", "--smaps"];

    let finished = underlay(&[&arguments[..], &[path.to_str().unwrap()]].concat());

    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<_> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines[0], "managed_4kb");
    let vma = lines.iter().position(|line| line == "000100000000-000100400000 rwxs").unwrap();
    assert_eq!(lines[vma + 1..vma + 4], ["Size: 4096 kB", "Rss: 4096 kB", "Pss: 4096 kB"]);
    let report = json(&finished.stdout);
    let memory = &report["runs"][1]["managed"]["memory"];
    assert_eq!(memory["vmas"][0]["usage"]["pss_bytes"], 4 << 20);
    assert_eq!(memory["faults"]["base"], report["runs"][1]["managed"]["faults"]["base"]);
    assert_eq!(report["runs"][0]["managed"], Value::Null);
}

fn skips() {
    let finished = underlay(&["measure", "--mem", "4K", "--samples", "1"]);

    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stdout.contains("not a multiple of the page size"), "{}", finished.stdout);
    assert!(finished.stdout.contains("file:PATH"), "{}", finished.stdout);
}

fn compare_with_itself() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.json");
    let path = path.to_str().unwrap();
    let _tables = measured(&["--json", path]);

    let text = underlay(&["compare", path, path]);
    let comparison = underlay(&["compare", "--json", path, path]);

    assert_eq!((text.code, comparison.code), (Some(0), Some(0)), "{}", text.stderr);
    assert!(text.stdout.contains("anonymous"), "{}", text.stdout);
    let runs = &json(&comparison.stdout)["runs"];
    assert_eq!(runs.as_array().unwrap().len(), 2);
    assert_eq!(runs[0]["wall_ns"]["ratio"], 1.0);
}

fn host() {
    let text = underlay(&["host"]);
    let survey = underlay(&["host", "--json"]);

    assert_eq!((text.code, survey.code), (Some(0), Some(0)), "{}{}", text.stderr, survey.stderr);
    assert_eq!(json(&survey.stdout)["schema"], 1);
    for word in ["anonymous_hugetlb_1gb", "userfaultfd", "max_map_count", "PAGEMAP_SCAN"] {
        assert!(text.stdout.contains(word), "{word} is missing in {}", text.stdout);
    }
}

fn startup() {
    let finished = underlay(&["startup", "--samples", "2", "--json"]);

    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let summary = json(&finished.stdout);
    let reached = summary["reached_ns"].as_array().unwrap();
    let times: Vec<_> = reached.iter().map(|stage| stage[1]["median"].as_u64().unwrap()).collect();
    assert_eq!(reached.last().unwrap()[0], "first doorbell");
    assert!(times.is_sorted(), "{times:?}");
    assert!(summary["overhead_bytes"]["median"].as_u64().unwrap() > 0);
}

fn help() {
    let finished = underlay(&["measure", "--help"]);

    assert_eq!(finished.code, Some(0));
    for option in [
        "--accel",
        "--backing",
        "--mem",
        "--vcpus",
        "--overlap",
        "--access",
        "--pattern",
        "--guest-page",
        "--samples",
        "--prefault",
        "--pin",
        "--seed",
        "--json",
        "--csv",
        "--smaps",
        "--samples-out",
        "--fault-around",
        "--fault-around-huge",
        "--handlers",
        "--handler-wait",
        "--handler-cpu",
        "--stock",
    ] {
        assert!(finished.stdout.contains(option), "{option} is missing");
    }
}
