//! What the options of `measure` do to what is measured.

use std::{collections::BTreeMap, fs};

use serde_json::Value;
use underlay_tests::{Need, Suite, underlay};

pub(crate) fn add_to(suite: &mut Suite) {
    suite.test("options::pin", &[Need::Kvm], pin);
    suite.test("options::numa_node", &[Need::Kvm, Need::NumaNode0], numa_node);
    suite.test("options::guest_page_of_4k", &[Need::Kvm], guest_page);
    suite.test("options::overlap", &[Need::Kvm], overlap);
    suite.test("options::random_touches_each_page_once_a_pass", &[Need::Kvm], random);
    suite.test("options::seed_selects_the_order", &[Need::Kvm], seed);
}

const MEM: u64 = 1 << 20;
const PAGES: u64 = MEM / 4096;

/// The report of a short measurement of one backing, and its every touch.
#[track_caller]
fn measured(more: &[&str]) -> (Value, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("touches.csv");
    let short = ["measure", "--backing", "anonymous", "--mem", "1M"];
    let outputs = ["--json", "-", "--samples-out", path.to_str().unwrap()];
    let finished = underlay(&[&short, &["--samples", "1"][..], &outputs, more].concat());
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    (report["runs"][0].clone(), fs::read_to_string(path).unwrap())
}

/// The addresses in their order, of each vCPU and pass.
fn orders(touches: &str) -> BTreeMap<(String, String), Vec<String>> {
    let mut orders = BTreeMap::<_, Vec<_>>::new();
    for line in touches.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let key = (fields[2].to_owned(), fields[3].to_owned());
        orders.entry(key).or_default().push(fields[5].to_owned());
    }
    orders
}

fn all_pages() -> Vec<String> {
    (0..PAGES).map(|page| format!("{:#x}", (4_u64 << 30) + page * 4096)).collect()
}

fn pin() {
    let (run, _) = measured(&["--pin", "0"]);

    assert_eq!(run["pin"], serde_json::json!([0]));
    assert_eq!(run["touches"], PAGES);
}

fn numa_node() {
    let (run, _) = measured(&["--numa-node", "0"]);
    let all = underlay(&["measure", "--mem", "2M", "--samples", "1", "--numa-node=0"]);

    assert_eq!(run["numa_node"], 0);
    assert_eq!(all.code, Some(0), "what cannot be bound is skipped: {}", all.stderr);
    assert!(all.stdout.contains("numactl --membind"), "{}", all.stdout);
}

fn guest_page() {
    let (run, _) = measured(&["--guest-page", "4k"]);

    assert_eq!(run["guest_page_bytes"], 4096);
    assert_eq!(run["touches"], PAGES);
}

fn overlap() {
    let (run, touches) = measured(&["--vcpus", "2", "--overlap"]);

    assert_eq!(run["overlap"], true);
    assert_eq!(run["touches"], 2 * PAGES);
    let orders = orders(&touches);
    assert_eq!(orders.len(), 2 * 2, "two vCPUs, two passes");
    for order in orders.values() {
        assert_eq!(*order, all_pages());
    }
}

fn random() {
    let (run, touches) = measured(&["--pattern", "random"]);

    assert_eq!(run["pattern"], "random");
    assert_eq!(run["seed"], 1);
    let orders = orders(&touches);
    assert_eq!(orders.len(), 2, "two passes");
    for mut order in orders.into_values() {
        assert_ne!(order, all_pages(), "not in ascending order");
        order.sort();
        assert_eq!(order, all_pages());
    }
}

fn seed() {
    let order = |seed| orders(&measured(&["--pattern", "random", "--seed", seed]).1);

    let (first, again, other) = (order("7"), order("7"), order("8"));

    assert_eq!(first, again);
    assert_ne!(first, other);
}
