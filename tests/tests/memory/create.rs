//! Creation against what the host has: its memory, its nodes, its pool of huge pages.

use std::{fs, num::NonZeroUsize, thread};

use guest_mem::{
    Backing, ByteSize, CreateRamError, GuestRam, GuestRamConfig, HugePagePool, HugePageSize, Prefault,
};
use underlay_tests::{Need, Suite, huge_pages};

use super::support::{HUGETLB, M, available, config, line_of, mapped, pages_of_2m, ram, resident};

pub(crate) fn add_to(suite: &mut Suite) {
    suite.test("create::more_than_the_machines_memory_can_be_overcommitted", &[Need::Overcommit], overcommit);
    suite.test("create::ram_can_be_bound_to_a_node", &[Need::NumaNode0], bind);
    suite.test(
        "create::too_few_huge_pages_are_an_error_that_leaves_the_pool_as_it_was",
        &[pages_of_2m(2)],
        too_few,
    );
    suite.test("create::every_huge_page_is_reserved_at_once", &[pages_of_2m(3)], reserve);
    suite.test("create::whoever_loses_a_race_for_the_pool_is_refused", &[pages_of_2m(4)], race);
}

fn overcommit() {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let number = |key| {
        let line = meminfo.lines().find(|line| line.starts_with(key)).unwrap();
        let kilobytes = line.split_whitespace().nth(1).unwrap();
        kilobytes.parse::<u64>().unwrap() << 10
    };
    let memory = number("MemTotal:") + number("SwapTotal:");
    let size = ByteSize::new(4 * memory).unwrap();
    for backing in [Backing::Anonymous, Backing::Shmem] {
        let ram = GuestRam::create(GuestRamConfig::new(size, backing)).unwrap();
        assert_eq!(resident(&ram), 0);
    }
}

fn bind() {
    for backing in [Backing::Anonymous, Backing::Shmem] {
        let ram = GuestRam::create(GuestRamConfig {
            numa_node: Some(0),
            prefault: Some(Prefault { threads: NonZeroUsize::MIN }),
            ..config("bound", backing, "1M")
        })
        .unwrap();

        let policy = line_of("numa_maps", &ram, 0);
        assert!(policy.contains(" bind:0 "), "{policy}");
    }
}

fn too_few() {
    let _pages = huge_pages(&HUGETLB[0], 4 * M);
    let pool = || HugePagePool::read(HugePageSize::Mb2).unwrap();
    let before = pool();
    for backing in HUGETLB {
        let error = GuestRam::create(config("few", backing, "8M")).unwrap_err();

        let enable =
            format!("echo {} > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", before.total + 2);
        let text = error.to_string();
        assert!(text.contains(&enable), "{text}");
        assert!(text.contains("4 of 2M are needed and 2 can be had"), "{text}");
        assert_eq!(pool(), before);
        assert_eq!(mapped("underlay:few:"), 0);
    }
}

fn reserve() {
    let _pages = huge_pages(&HUGETLB[0], 6 * M);
    for backing in HUGETLB {
        let ram = ram("reserved", backing, "6M");
        assert_eq!(available(), 0);
        drop(ram);
        assert_eq!(available(), 3);
    }
}

/// Three threads make RAM over and over from a pool that has enough for one. Whoever comes too late is refused, also if
/// the pages went after they were counted, and no page stays reserved for it.
fn race() {
    let _pages = huge_pages(&HUGETLB[0], 8 * M);
    for backing in HUGETLB {
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let result = GuestRam::create(config("race", backing.clone(), "6M"));
                        let expected = matches!(
                            result,
                            Ok(_) | Err(CreateRamError::Unavailable(_) | CreateRamError::Map { .. })
                        );
                        assert!(expected, "{result:?}");
                    }
                });
            }
        });
        assert_eq!(available(), 4);
        ram("race", backing, "8M");
    }
}
