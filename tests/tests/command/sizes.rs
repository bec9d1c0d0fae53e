//! Sizes that no guest can have: the user's mistake, whatever backs the RAM.

use underlay_tests::{Need, Suite, underlay};

use super::bad_input::refused;

pub(crate) fn add_to(suite: &mut Suite) {
    for (name, args, words) in WRONG {
        suite.test(format!("sizes::{name}"), &[Need::Kvm], move || {
            refused(&[&["measure"], args].concat(), 2, words);
        });
    }
    suite.test("sizes::of_startup", &[Need::Kvm], || {
        refused(&["startup", "--mem", "6000"], 2, &["multiple of 4096"]);
    });
    suite.test("sizes::of_one_gigabyte_pages", &[Need::Kvm], gigabytes);
}

type Wrong = (&'static str, &'static [&'static str], &'static [&'static str]);

/// What is wrong by itself: the arguments, and what the message must say.
const WRONG: [Wrong; 9] = [
    ("odd_with_default_backings", &["--mem", "6000"], &["6000", "multiple of 4096", "use 8192"]),
    ("less_than_a_page", &["--mem", "3000"], &["3000", "multiple of 4096", "use 4096"]),
    ("the_largest_number", &["--mem", "18446744073709551615"], &["ask for less"]),
    (
        "beyond_a_slot",
        &["--backing", "anonymous", "--mem", "16T"],
        &["memory slot", "8796093018112 bytes", "ask for less"],
    ),
    ("beyond_a_slot_with_default_backings", &["--mem", "16T"], &["memory slot", "ask for less"]),
    (
        "prefault_beyond_memory",
        &["--backing", "anonymous", "--mem", "7T", "--prefault"],
        &["cannot be populated", "ask for less"],
    ),
    (
        "more_vcpus_than_kvm_allows_come_before_sharing",
        &["--vcpus", "99999"],
        &["99999 vCPUs are more than this KVM gives one VM"],
    ),
    (
        "guest_memfd_on_a_node",
        &["--backing", "guest_memfd", "--numa-node", "0"],
        &["guest_memfd", "numactl --membind"],
    ),
    ("a_node_that_is_not_there", &["--mem", "1M", "--numa-node", "999"], &["NUMA"]),
];

fn gigabytes() {
    let finished = underlay(&["measure", "--mem", "4K", "--samples", "1", "--json", "-"]);

    let report: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    let advised = report["skipped"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|skipped| skipped["backing"].as_str().unwrap().contains("hugetlb"))
        .filter_map(|skipped| skipped["enable"].as_str())
        .filter(|command| command.ends_with("underlay measure --mem 2M"));
    assert_eq!(advised.count(), 2, "{}", report["skipped"]);
}
