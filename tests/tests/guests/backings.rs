//! Every backing: filled and verified by the guest, seen alike by guest and host, faulted in as promised.

use std::fs::File;

use guest_mem::{Backing, HugePageSize};
use underlay_tests::{Need, Suite, huge_pages};
use vm_memory::{Bytes, GuestAddress};
use vmm::{
    driver::{Access, Op, RAM_BASE, pattern},
    interrupt::Interrupt,
    kvm::{Kvm, SecondStage, Vendor},
    measure::{Sample, check_sample},
    report::Mapped,
};

use super::support::{G, M, PAGE, machine, plan, run, words};

/// What one sequential pass of first touches must cost: how many faults, and what is mapped then.
struct Expected {
    faults: u64,
    mapped: Mapped,
}

fn pages_4k(bytes: u64) -> Expected {
    let pages = bytes / PAGE;
    Expected { faults: pages, mapped: Mapped { pages_4k: pages, ..Mapped::default() } }
}

fn pages_2m(bytes: u64) -> Expected {
    let pages = bytes / (2 * M);
    Expected { faults: pages, mapped: Mapped { pages_2m: pages, ..Mapped::default() } }
}

pub(crate) fn add_to(suite: &mut Suite) {
    let small = 16 * M;
    let pages_of_2m = Need::HugePages(HugePageSize::Mb2, small / (2 * M));
    let page_of_1g = Need::HugePages(HugePageSize::Gb1, 1);

    let mut backing = |backing: Backing, needs: &[Need], bytes: u64, expected: Option<Expected>| {
        let name = backing.to_string();
        let needs: Vec<_> = [Need::Kvm].into_iter().chain(needs.iter().copied()).collect();
        let this = backing.clone();
        suite.test(format!("{name}::what_is_filled_is_verified"), &needs, move || {
            fill_and_verify(&this, bytes);
        });
        if let Some(expected) = expected {
            suite.test(format!("{name}::faults_are_as_promised"), &needs, move || {
                count_faults(&backing, bytes, &expected);
            });
        } else {
            suite.test(format!("{name}::huge_pages_are_mapped_huge"), &needs, move || {
                maps_huge(&backing, bytes);
            });
        }
    };
    backing(Backing::Anonymous, &[], small, Some(pages_4k(small)));
    backing(Backing::Shmem, &[], small, Some(pages_4k(small)));
    backing(Backing::GuestMemfd, &[Need::GuestMemfd], small, Some(pages_4k(small)));
    backing(Backing::AnonymousHugetlb2mb, &[pages_of_2m], small, Some(pages_2m(small)));
    backing(Backing::SharedHugetlb2mb, &[pages_of_2m], small, Some(pages_2m(small)));
    // How many huge pages the kernel finds for a THP backing is its own affair.
    backing(Backing::AnonymousThp, &[Need::Thp], small, None);
    backing(Backing::ShmemThp, &[Need::ShmemThp], small, None);
    // The guest maps 2 MiB. Shadow page tables map the smaller of the two, a second stage of its own what the host has.
    let gigabyte = || {
        if shadow() {
            pages_2m(G)
        } else {
            Expected { faults: 1, mapped: Mapped { pages_1g: 1, ..Mapped::default() } }
        }
    };
    backing(Backing::AnonymousHugetlb1gb, &[page_of_1g], G, Some(gigabyte()));
    backing(Backing::SharedHugetlb1gb, &[page_of_1g], G, Some(gigabyte()));

    suite.test("file::what_is_filled_is_verified", &[Need::Kvm], move || {
        on_a_file(small, |backing| {
            fill_and_verify(backing, small);
        });
    });
    suite.test("file::the_file_is_read_and_never_written", &[Need::Kvm], move || {
        on_a_file(small, |backing| {
            file_stays(backing, small);
        });
    });
    suite.test(
        "gigabyte_guest_pages::map_1g",
        &[Need::Kvm, Need::GigabyteGuestPages, page_of_1g],
        map_a_gigabyte,
    );
    suite.test("small_guest_pages::map_4k", &[Need::Kvm, pages_of_2m], map_small);
}

fn shadow() -> bool {
    Vendor::detect().second_stage == SecondStage::Shadow
}

fn fill_and_verify(backing: &Backing, bytes: u64) {
    let _pages = huge_pages(backing, bytes);
    let mut machine = machine(backing.clone(), bytes, 1);

    run(&mut machine, words(Op::Fill, 0, bytes, 7));

    let verified = run(&mut machine, words(Op::Verify, 0, bytes, 7)).outcome;
    assert_eq!((verified.touches, verified.mismatches), (bytes / 8, 0));
    // The host sees the same words, and the guest sees what the host writes.
    let (ram, wrong) = (machine.ram().clone(), RAM_BASE + bytes - 4096 + 8);
    for address in [RAM_BASE, wrong] {
        let word: u64 = ram.view().read_obj(GuestAddress(address)).unwrap();
        assert_eq!(word, pattern(address, 7));
    }
    ram.view().write_obj(!pattern(wrong, 7), GuestAddress(wrong)).unwrap();
    let verified = run(&mut machine, words(Op::Verify, 0, bytes, 7)).outcome;
    assert_eq!((verified.mismatches, verified.first_mismatch), (1, wrong));
    let resident = ram.report().unwrap().resident_bytes;
    assert_eq!(resident, Some(bytes), "every page is there, and none twice");
}

#[track_caller]
fn sample(backing: &Backing, plan: &vmm::measure::Plan) -> Sample {
    let (kvm, interrupt) = (Kvm::open().unwrap(), Interrupt::new().unwrap());
    Sample::take(&kvm, plan, backing, 1, &interrupt, None).unwrap()
}

fn count_faults(backing: &Backing, bytes: u64, expected: &Expected) {
    let _pages = huge_pages(backing, bytes);

    let sample = sample(backing, &plan(bytes));

    assert_eq!(sample.first.touches, bytes / PAGE);
    assert_eq!(sample.first.kvm.pf_fixed, expected.faults, "{:?}", sample.first.kvm);
    assert_eq!(sample.mapped, expected.mapped);
    assert_eq!(sample.second.kvm.pf_fixed, 0, "the second touch of a page takes no fault");
    assert_eq!(sample.resident_bytes, Some(bytes));
    assert_checks(&plan(bytes), &sample);
}

/// Every check that does not compare times must hold on any host.
#[track_caller]
pub(crate) fn assert_checks(plan: &vmm::measure::Plan, sample: &Sample) {
    for check in check_sample(plan, sample) {
        let times = ["slow_touches_match_faults", "wall_matches_kvm_run"].contains(&check.name.as_str());
        assert!(check.ok || times, "{}: {}", check.name, check.detail);
    }
}

fn maps_huge(backing: &Backing, bytes: u64) {
    let _setting = huge_pages(backing, bytes);

    let sample = sample(backing, &plan(bytes));

    assert!(sample.mapped.pages_2m > 0, "{:?}", sample.mapped);
    assert_checks(&plan(bytes), &sample);
}

fn on_a_file(bytes: u64, test: impl FnOnce(&Backing)) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(bytes).unwrap();
    test(&Backing::File(file.path().into()));
}

fn file_stays(backing: &Backing, bytes: u64) {
    let Backing::File(path) = backing else { unreachable!("made by on_a_file") };
    std::fs::write(path, vec![0x5a; usize::try_from(bytes).unwrap()]).unwrap();
    let mut machine = machine(backing.clone(), bytes, 1);
    let ram = machine.ram().clone();
    assert_eq!(ram.view().read_obj::<u8>(GuestAddress(RAM_BASE + 5)).unwrap(), 0x5a);

    run(&mut machine, words(Op::Fill, 0, bytes, 1));

    let mut file = File::open(path).unwrap();
    let mut bytes_read = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut bytes_read).unwrap();
    assert!(bytes_read.iter().all(|byte| *byte == 0x5a));
}

/// With guest pages as large as the host's, one fault maps all of it.
fn map_a_gigabyte() {
    let backing = Backing::AnonymousHugetlb1gb;
    let _pages = huge_pages(&backing, G);
    let plan = vmm::measure::Plan { guest_page: vmm::driver::GuestPage::G1, ..plan(G) };

    let sample = sample(&backing, &plan);

    assert_eq!(sample.mapped, Mapped { pages_1g: 1, ..Mapped::default() });
    assert_eq!(sample.first.kvm.pf_fixed, 1);
}

/// A shadow page table cannot map more than the guest's does; a second stage of its own can.
fn map_small() {
    let backing = Backing::AnonymousHugetlb2mb;
    let _pages = huge_pages(&backing, 16 * M);
    let plan =
        vmm::measure::Plan { guest_page: vmm::driver::GuestPage::K4, access: Access::Read, ..plan(16 * M) };
    let expected = if shadow() { pages_4k(16 * M) } else { pages_2m(16 * M) };

    let sample = sample(&backing, &plan);

    assert_eq!(sample.mapped, expected.mapped);
}
