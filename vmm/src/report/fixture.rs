//! A small report for the tests: one healthy run, one whose figures disagree.

use std::collections::BTreeMap;

use super::{
    Check, Host, HostFaults, KvmFaults, Latency, Managed, ManagedSetup, Mapped, Pool, Report, Run, SCHEMA,
    Skipped, Spread, StageTimes,
};

pub(super) fn report() -> Report {
    Report {
        schema: SCHEMA,
        host: host(),
        warnings: vec!["KSM is running: it merges and write-protects guest pages".to_owned()],
        runs: vec![anonymous(), hugetlb()],
        ratios: Vec::new(),
        skipped: vec![Skipped {
            backing: "anonymous_hugetlb_1gb".to_owned(),
            reason: "0 of the 1 huge page that 64 MiB need are free".to_owned(),
            enable: Some("echo 1 >/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages".to_owned()),
        }],
    }
}

fn host() -> Host {
    Host {
        kernel: "6.18.0".to_owned(),
        cpu: "Example CPU @ 2.00GHz".to_owned(),
        kvm_vendor: "kvm_intel".to_owned(),
        second_stage: "EPT".to_owned(),
        thp: "madvise".to_owned(),
        shmem_thp: "never".to_owned(),
        hugepages_2m: Pool { total: 512, free: 480 },
        hugepages_1g: Pool::default(),
        tsc_khz: 2_000_000,
        version: "0.1.0".to_owned(),
        environment: BTreeMap::from([("nx_huge_pages".to_owned(), "Y".to_owned())]),
    }
}

fn anonymous() -> Run {
    Run {
        backing: "anonymous".to_owned(),
        accel: "kvm".to_owned(),
        resolved_by: "kernel".to_owned(),
        mem_bytes: 64 << 20,
        guest_page_bytes: 2 << 20,
        vcpus: 1,
        overlap: false,
        access: "write".to_owned(),
        pattern: "sequential".to_owned(),
        prefault: false,
        seed: None,
        pin: Vec::new(),
        numa_node: None,
        samples: 5,
        touches: 16_384,
        wall_ns: Spread { min: 475_000_000, median: 480_000_000, max: 512_000_000 },
        cpu_ns: Spread { min: 490_000_000, median: 492_000_000, max: 520_000_000 },
        first_touch_ns: Latency {
            p50: 28_000.0,
            p90: 30_100.0,
            p99: 45_000.0,
            p999: 61_000.0,
            max: 1_250_000.0,
            mean: 29_200.0,
        },
        second_touch_ns: Latency { p50: 15.5, p90: 18.0, p99: 27.0, p999: 310.0, max: 9_870.0, mean: 16.4 },
        timer_ns: 12.5,
        timer_step_ns: 0.5,
        slow_touches: 16_384,
        slow_touch_ns: Some(Latency {
            p50: 28_000.0,
            p90: 30_100.0,
            p99: 45_000.0,
            p999: 61_000.0,
            max: 1_250_000.0,
            mean: 29_200.0,
        }),
        kvm: KvmFaults { pf_taken: 16_385, pf_fixed: 16_384, pf_spurious: 0, pf_emulate: 1, pf_guest: 0 },
        mapped: Mapped { pages_4k: 16_384, pages_2m: 0, pages_1g: 0 },
        host_faults: HostFaults { minor: 16_384, major: 0 },
        resident_bytes: Some(64 << 20),
        managed: None,
        sample_wall_ns: vec![512_000_000, 480_000_000, 480_000_000, 475_000_000, 490_000_000],
        sample_first_touch_p50_ns: vec![28_400.0, 28_000.0, 27_900.0, 28_000.0, 28_100.0],
        checks: vec![
            check("touches_counted", true, "16384 samples, 16384 touches"),
            check("faults_add_up", true, "16385 = 16384 + 0 + 1 + 0"),
        ],
    }
}

fn hugetlb() -> Run {
    Run {
        backing: "anonymous_hugetlb_2mb".to_owned(),
        wall_ns: Spread { min: 8_100_000, median: 8_250_000, max: 8_900_000 },
        cpu_ns: Spread { min: 8_300_000, median: 8_400_000, max: 9_100_000 },
        first_touch_ns: Latency {
            p50: 15.5,
            p90: 19.5,
            p99: 28.5,
            p999: 251_000.0,
            max: 288_000.0,
            mean: 503.0,
        },
        timer_ns: 13.0,
        timer_step_ns: 0.5,
        slow_touches: 32,
        slow_touch_ns: Some(Latency {
            p50: 250_000.0,
            p90: 255_000.0,
            p99: 288_000.0,
            p999: 288_000.0,
            max: 288_000.0,
            mean: 250_500.0,
        }),
        kvm: KvmFaults { pf_taken: 36, pf_fixed: 32, pf_spurious: 0, pf_emulate: 1, pf_guest: 0 },
        mapped: Mapped { pages_4k: 0, pages_2m: 32, pages_1g: 0 },
        host_faults: HostFaults { minor: 32, major: 0 },
        resident_bytes: None,
        sample_wall_ns: vec![8_900_000, 8_200_000, 8_100_000, 8_250_000, 8_300_000],
        sample_first_touch_p50_ns: vec![15.5, 15.5, 15.5, 16.0, 15.5],
        checks: vec![
            check("touches_counted", true, "16384 samples, 16384 touches"),
            check(
                "faults_add_up",
                false,
                "36 faults taken; 32 fixed, 0 spurious, 1 emulated, 3 unaccounted for",
            ),
        ],
        ..anonymous()
    }
}

/// The same guest on a managed backing.
pub(super) fn managed() -> Run {
    let latency =
        |p50| Latency { p50, p90: p50 * 2.0, p99: p50 * 3.0, p999: p50 * 4.0, max: p50 * 4.0, mean: p50 };
    Run {
        backing: "managed_2mb".to_owned(),
        resolved_by: "underlay".to_owned(),
        wall_ns: Spread { min: 1_600_000, median: 1_650_000, max: 1_900_000 },
        cpu_ns: Spread { min: 9_800_000, median: 9_900_000, max: 9_950_000 },
        slow_touch_ns: Some(Latency { p50: 100_000.0, p99: 150_000.0, ..latency(100_000.0) }),
        managed: Some(Managed {
            setup: ManagedSetup {
                fault_around_bytes: [65_536, 2 << 20],
                fault_around_huge: [4, 16],
                handlers: 1,
                handler_wait: "sleep".to_owned(),
                handler_cpu: None,
                stock: "all".to_owned(),
            },
            faults: [("huge", 8), ("around", 24), ("gave_up", 0)]
                .map(|(name, faults)| (name.to_owned(), faults))
                .into(),
            mapped_4k: 0,
            mapped_2m: 32,
            stock_hits: 16_384,
            zeroed_in_fault: 0,
            stock_wait_ns: 12_500_000,
            stages: Some(StageTimes {
                faults: 40,
                touch_ns: latency(75_000.0),
                wake_ns: latency(30_000.0),
                resolve_ns: latency(20_000.0),
                resume_ns: latency(25_000.0),
                clock_error_ns: 1_250.0,
            }),
            memory: None,
        }),
        ..hugetlb()
    }
}

fn check(name: &str, ok: bool, detail: &str) -> Check {
    Check { name: name.to_owned(), ok, detail: detail.to_owned() }
}
