//! Each backing from creation to drop: where it lies, what it is made of, what it is called.

use std::os::fd::OwnedFd;

use guest_mem::{Backing, Discarded, GuestRam, GuestRamConfig, HugePagePool, HugePageSize, MemoryCall};
use nix::sys::memfd::{MFdFlags, memfd_create};
use underlay_tests::{Need, Suite, huge_pages};

use super::support::{
    HUGETLB, M, PAGE, assert_filled, config, fill, line_of, mapped, pages_of_2m, part, ram, resident,
};

pub(crate) fn add_to(suite: &mut Suite) {
    let page_of_1g = Need::HugePages(HugePageSize::Gb1, 1);
    for (backing, size, need) in [
        (Backing::Anonymous, "6M", None),
        (Backing::AnonymousThp, "6M", Some(Need::Thp)),
        (Backing::Shmem, "6M", None),
        (Backing::ShmemThp, "6M", Some(Need::ShmemThp)),
        (Backing::AnonymousHugetlb2mb, "6M", Some(pages_of_2m(3))),
        (Backing::SharedHugetlb2mb, "6M", Some(pages_of_2m(3))),
        (Backing::AnonymousHugetlb1gb, "1G", Some(page_of_1g)),
        (Backing::SharedHugetlb1gb, "1G", Some(page_of_1g)),
    ] {
        suite.test(format!("life::of_{backing}"), need.as_slice(), move || {
            let config = config(&format!("life-{backing}"), backing.clone(), size);
            let _pages = huge_pages(&backing, config.size.bytes());
            live(GuestRam::create(config).unwrap());
        });
    }
    // KVM makes the real one, for guests. A memfd behaves alike under map, discard and residency.
    suite.test("life::of_a_stand_in_for_guest_memfd", &[], || {
        let ram = GuestRam::create(GuestRamConfig {
            guest_memfd: Some(memfd(6 * M)),
            ..config("life-guest_memfd", Backing::GuestMemfd, "6M")
        })
        .unwrap();
        assert!(ram.guest_memfd().is_some());
        live(ram);
    });
    for (backing, needs, huge) in [
        (Backing::Anonymous, &[Need::Thp], 0),
        (Backing::AnonymousThp, &[Need::Thp], 2 * M),
        (Backing::Shmem, &[Need::ShmemThp], 0),
        (Backing::ShmemThp, &[Need::ShmemThp], 2 * M),
    ] {
        let name = format!("life::{backing}_is_made_of_the_pages_it_says");
        suite.test(name, needs, move || first_page(backing, huge));
    }
    suite.test(
        "life::private_huge_pages_that_are_read_first_are_not_there_twice",
        &[pages_of_2m(1)],
        read_first,
    );
    suite.test("life::anonymous_memory_is_named", &[Need::AnonVmaName], || {
        let ram = ram("my guest", Backing::Anonymous, "2M");
        let line = line_of("maps", &ram, 0);
        assert!(line.contains("[anon:underlay:my_guest:ram]"), "{line}");
    });
    suite.test("life::huge_pages_are_named", &[pages_of_2m(1)], || {
        let _pages = huge_pages(&HUGETLB[0], 2 * M);
        for backing in HUGETLB {
            let ram = ram("huge-name", backing, "2M");
            let line = line_of("maps", &ram, 0);
            assert!(line.contains("memfd:underlay:huge-name:ram"), "{line}");
        }
    });
    suite.test("life::an_attempt_at_a_call_leaves_no_mapping_behind", &[Need::AnonVmaName], || {
        MemoryCall::NameAnonymous.attempt().unwrap();
        assert_eq!(mapped("underlay:probe"), 0);
    });
}

fn memfd(bytes: u64) -> OwnedFd {
    let memfd = memfd_create(c"stand-in", MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&memfd, i64::try_from(bytes).unwrap()).unwrap();
    memfd
}

/// What holds for every backing: where it lies, that it is new, that it holds what is written, that a discard of all
/// of it makes it new again, and that nothing is left of it.
#[track_caller]
fn live(ram: GuestRam) {
    let all = ram.range();
    let page = ram.backing().page_size();
    let name = format!("underlay:life-{}:", ram.backing());
    let last = part(&ram, all.len() - PAGE, PAGE);
    let address = ram.host_address().get();
    assert!(address.is_multiple_of(ram.backing().largest_page()));
    assert_eq!(resident(&ram), 0);

    fill(&ram, part(&ram, 0, PAGE), 7);
    fill(&ram, last, 9);

    assert!(resident(&ram) >= page.max(2 * PAGE).min(all.len()));
    assert_filled(&ram, last, 9);
    let discarded = ram.discard(all).unwrap();
    let expected = Discarded { freed_bytes: all.len(), zeroed_bytes: 0, pinned_bytes: 0 };
    assert_eq!(discarded, expected);
    assert_eq!(resident(&ram), 0);
    assert_filled(&ram, part(&ram, 0, PAGE), 0);
    assert_filled(&ram, last, 0);
    line_of("maps", &ram, 0);

    drop(ram);
    assert_eq!(mapped(&name), 0);
}

/// What is there after a touch of the first page: nothing huge, or a page of `huge` bytes.
fn first_page(backing: Backing, huge: u64) {
    // Shared memory that does not want huge pages gets none though the host would give them.
    let _advised = backing.is_shared().then(|| huge_pages(&Backing::ShmemThp, 0));
    let ram = ram("first-page", backing, "4M");

    fill(&ram, part(&ram, 0, PAGE), 1);

    let report = ram.report().unwrap();
    assert_eq!(report.guest_bytes, 4 * M);
    assert_eq!(report.huge_bytes, Some(huge));
    assert_eq!(report.resident_bytes, Some(huge.max(PAGE)));
}

fn read_first() {
    let _pages = huge_pages(&Backing::AnonymousHugetlb2mb, 2 * M);
    let ram = ram("twice", Backing::AnonymousHugetlb2mb, "2M");

    assert_filled(&ram, part(&ram, 0, PAGE), 0);
    fill(&ram, part(&ram, 0, PAGE), 1);

    assert_eq!(resident(&ram), 2 * M);
    let pool = HugePagePool::read(HugePageSize::Mb2).unwrap();
    assert_eq!(pool.reserved, 0);
}
