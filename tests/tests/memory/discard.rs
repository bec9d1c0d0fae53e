//! Discards of huge pages: what is outside the range stays, and the pool promises as much as before.

use guest_mem::{Backing, Discarded, GuestRam, GuestRamConfig};
use underlay_tests::{Need, Suite, huge_pages};

use super::support::{
    HUGETLB, M, PAGE, assert_filled, available, config, fill, line_of, mapped, pages_of_2m, part, ram,
    resident,
};

pub(crate) fn add_to(suite: &mut Suite) {
    for backing in HUGETLB {
        suite.test(format!("discard::{backing}_keeps_what_is_outside"), &[pages_of_2m(4)], move || {
            edges(backing);
        });
    }
    suite.test(
        "discard::page_by_page_of_shared_hugetlb_2mb_leaves_few_mappings",
        &[pages_of_2m(160)],
        scattered,
    );
    suite.test("discard::within_one_huge_page_zeroes_it_there", &[pages_of_2m(1)], within);
    suite.test("discard::keeps_the_numa_node", &[pages_of_2m(3), Need::NumaNode0], node);
}

/// The edges of a range in a huge page are zeroed, the pages between are freed, nothing else changes, and the pool
/// promises this RAM as much as before.
fn edges(backing: Backing) {
    let _pages = huge_pages(&backing, 8 * M);
    let ram = ram("edges", backing, "8M");
    fill(&ram, part(&ram, 0, 6 * M), 3);
    assert_eq!(resident(&ram), 6 * M);
    assert_eq!(available(), 0);

    let discarded = ram.discard(part(&ram, M, 6 * M)).unwrap();

    let expected = Discarded { freed_bytes: 4 * M, zeroed_bytes: 2 * M, pinned_bytes: 0 };
    assert_eq!(discarded, expected);
    // The last page was not there, and was not made only to be zeroed.
    assert_eq!(ram.report().unwrap().huge_bytes, Some(2 * M));
    assert_eq!(available(), 0, "the pages that were freed are reserved again");
    assert_filled(&ram, part(&ram, 0, M), 3);
    assert_filled(&ram, part(&ram, M, 7 * M), 0);
}

/// Every second page goes by a discard of its own, each of which makes mappings of one: they become few again, and what was
/// kept is where it was.
fn scattered() {
    let _pages = huge_pages(&Backing::SharedHugetlb2mb, 320 * M);
    let ram = ram("scattered", Backing::SharedHugetlb2mb, "320M");
    let page = |index: u8| part(&ram, u64::from(index) * 2 * M, 2 * M);
    for index in 0..160 {
        fill(&ram, page(index), index + 1);
    }

    let most = (0..160).step_by(2).map(|index| {
        ram.discard(page(index)).unwrap();
        mapped("scattered")
    });

    assert_eq!(most.max(), Some(64));
    assert_eq!(resident(&ram), 160 * M);
    assert_eq!(available(), 0, "every page is promised still");
    for index in 0..160 {
        assert_filled(&ram, page(index), if index % 2 == 0 { 0 } else { index + 1 });
    }
}

fn within() {
    let _pages = huge_pages(&Backing::AnonymousHugetlb2mb, 2 * M);
    let ram = ram("within", Backing::AnonymousHugetlb2mb, "2M");
    fill(&ram, ram.range(), 3);

    let discarded = ram.discard(part(&ram, PAGE, PAGE)).unwrap();

    let expected = Discarded { freed_bytes: 0, zeroed_bytes: PAGE, pinned_bytes: 0 };
    assert_eq!(discarded, expected);
    assert_filled(&ram, part(&ram, 0, PAGE), 3);
    assert_filled(&ram, part(&ram, PAGE, PAGE), 0);
    assert_filled(&ram, part(&ram, 2 * PAGE, PAGE), 3);
}

fn node() {
    let _pages = huge_pages(&Backing::SharedHugetlb2mb, 6 * M);
    let ram = GuestRam::create(GuestRamConfig {
        numa_node: Some(0),
        ..config("node", Backing::SharedHugetlb2mb, "6M")
    })
    .unwrap();

    ram.discard(part(&ram, 2 * M, 2 * M)).unwrap();

    let policy = line_of("numa_maps", &ram, 2 * M);
    assert!(policy.contains(" bind:0 "), "{policy}");
}
