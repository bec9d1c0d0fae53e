//! Discards under a running guest: what is discarded reads as new, what is not stays.

use std::{
    sync::{Arc, Mutex},
    thread,
};

use guest_mem::{Backing, GuestMemoryView, HugePageSize};
use mmu_notifier::{AddressRange, Invalidation, Subscriber, WouldBlock};
use underlay_tests::{Need, Suite, huge_pages};
use vm_memory::{Bytes, GuestAddress};
use vmm::{
    driver::{Access, Command, Op, RAM_BASE, pattern},
    machine::Machine,
};

use super::support::{G, M, machine, run, touches, words};

pub(crate) fn add_to(suite: &mut Suite) {
    let small = 16 * M;
    let pages = Need::HugePages(HugePageSize::Mb2, small / (2 * M));
    for (backing, need) in [
        (Backing::Anonymous, None),
        (Backing::AnonymousThp, Some(Need::Thp)),
        (Backing::Shmem, None),
        (Backing::ShmemThp, Some(Need::ShmemThp)),
        (Backing::AnonymousHugetlb2mb, Some(pages)),
        (Backing::SharedHugetlb2mb, Some(pages)),
        (Backing::GuestMemfd, Some(Need::GuestMemfd)),
        (Backing::Managed4kb, Some(Need::ManagedFaults)),
    ] {
        let needs: Vec<_> = [Need::Kvm].into_iter().chain(need).collect();
        let this = backing.clone();
        suite.test(format!("discard::{backing}_keeps_what_is_not_discarded"), &needs, move || keeps(&this));
        suite.test(format!("discard::{backing}_races_with_the_guest's_faults"), &needs, move || {
            races(&backing, small);
        });
    }
    let page = Need::HugePages(HugePageSize::Gb1, 1);
    for backing in [Backing::AnonymousHugetlb1gb, Backing::SharedHugetlb1gb] {
        let name = format!("discard::{backing}_is_freed_whole_and_zeroed_in_part");
        suite.test(name, &[Need::Kvm, page], move || gigabyte(&backing));
    }
    suite.test("discard::file_reads_as_the_file_again", &[Need::Kvm], file);
    suite.test("discard::a_subscriber_is_told_before_the_page_goes", &[Need::Kvm], told_before);
}

pub(crate) fn range(offset: u64, len: u64) -> AddressRange {
    AddressRange::new(RAM_BASE + offset, len).unwrap()
}

/// Runs `commands` on `machine` and calls `discard` over and over until they are done. Returns the machine, and how
/// often it was called.
pub(crate) fn meanwhile(
    mut machine: Machine,
    commands: Vec<Command>,
    mut discard: impl FnMut(u64),
) -> (Machine, u64) {
    let guest = thread::spawn(move || {
        machine.run(&commands).unwrap();
        machine
    });
    let mut rounds = 0;
    while !guest.is_finished() {
        discard(rounds);
        rounds += 1;
    }
    (guest.join().unwrap(), rounds)
}

/// The guest writes what the host discards at the same time: it never stops, and afterwards the memory is as new.
fn races(backing: &Backing, bytes: u64) {
    let vcpus = 2;
    let _pages = huge_pages(backing, bytes);
    let machine = machine(backing.clone(), bytes, vcpus);
    let ram = machine.ram().clone();
    // A second or so: a pass over small pages may have to fault each of them in again.
    let passes = if backing.is_hugetlb() { 500 } else { 20 };
    let writes = Command { passes, ..touches(Access::ReadWrite, 0, bytes) };

    let (mut machine, rounds) = meanwhile(machine, vec![writes; vcpus as usize], |round| {
        let at = (round * 0x23_5000) % (bytes / 2);
        ram.discard(range(at / 4096 * 4096, 4096)).unwrap();
        ram.discard(range(at / 4096 * 4096, bytes / 2)).unwrap();
        ram.discard(ram.range()).unwrap();
    });
    ram.discard(ram.range()).unwrap();

    assert!(rounds > 0, "the host discarded while the guest ran");
    let bytes = bytes.min(16 * M);
    let verify = words(Op::Verify, 0, bytes, 5);
    assert_eq!(run(&mut machine, verify).outcome.mismatches, bytes / 8, "nothing is left of it");
    run(&mut machine, words(Op::Fill, 0, bytes, 5));
    assert_eq!(run(&mut machine, verify).outcome.mismatches, 0, "it can be used again");
}

fn gigabyte(backing: &Backing) {
    let _pages = huge_pages(backing, G);
    let mut machine = machine(backing.clone(), G, 1);
    let ram = machine.ram().clone();
    run(&mut machine, words(Op::Fill, 0, 4 * M, 9));

    let part = ram.discard(range(M, M)).unwrap();
    let ends = [words(Op::Verify, 0, M, 9), words(Op::Verify, 2 * M, 2 * M, 9)];
    let kept = ends.map(|end| run(&mut machine, end).outcome.mismatches);
    let gone = run(&mut machine, words(Op::Verify, M, M, 9)).outcome.mismatches;
    let whole = ram.discard(ram.range()).unwrap();

    assert_eq!((part.freed_bytes, part.zeroed_bytes), (0, M));
    assert_eq!((kept, gone), ([0, 0], M / 8));
    assert_eq!((whole.freed_bytes, whole.zeroed_bytes), (G, 0));
    let nothing = run(&mut machine, words(Op::Verify, 0, 4 * M, 9)).outcome;
    assert_eq!(nothing.mismatches, 4 * M / 8);
}

fn file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![0x5a; 1 << 20]).unwrap();
    let mut machine = machine(Backing::File(file.path().into()), M, 1);
    let ram = machine.ram().clone();
    run(&mut machine, words(Op::Fill, 0, M, 1));

    ram.discard(range(0x4000, 0x8000)).unwrap();

    let mut bytes = vec![0; 0x8000];
    ram.view().read_slice(&mut bytes, GuestAddress(RAM_BASE + 0x4000)).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0x5a));
    let kept = run(&mut machine, words(Op::Verify, 0xc000, M - 0xc000, 1)).outcome;
    assert_eq!(kept.mismatches, 0);
}

/// The guest reads its lower half over and over while the host discards pieces of the upper half.
fn keeps(backing: &Backing) {
    let (bytes, half) = (16 * M, 8 * M);
    let _pages = huge_pages(backing, bytes);
    let mut machine = machine(backing.clone(), bytes, 1);
    run(&mut machine, words(Op::Fill, 0, bytes, 3));
    let ram = machine.ram().clone();
    let reads = Command { passes: 2000, ..touches(Access::Read, 0, half) };

    let (mut machine, rounds) = meanwhile(machine, vec![reads], |round| {
        // A page, a piece that ends in the middle of huge pages, and huge pages as a whole.
        let at = half + (round * 0x5000) % (4 * M);
        ram.discard(range(at, 4096)).unwrap();
        ram.discard(range(at, 3 * M)).unwrap();
        ram.discard(range(half + 4 * M, 4 * M)).unwrap();
    });
    ram.discard(range(half, half)).unwrap();

    assert!(rounds > 0, "the host discarded while the guest ran");
    let kept = run(&mut machine, words(Op::Verify, 0, half, 3)).outcome;
    assert_eq!(kept.mismatches, 0, "the lower half was left alone");
    let gone = run(&mut machine, words(Op::Verify, half, half, 3)).outcome;
    assert_eq!(gone.mismatches, half / 8, "no word of the upper half is left");
    run(&mut machine, words(Op::Fill, half, half, 4));
    let refilled = run(&mut machine, words(Op::Verify, half, half, 4)).outcome;
    assert_eq!(refilled.mismatches, 0, "the upper half can be used again");
}

/// Looks, whenever it is told of a change, at what is there.
struct Witness {
    view: GuestMemoryView,
    seen: Mutex<Vec<u64>>,
}

impl Witness {
    fn look(&self, at: u64) {
        self.seen.lock().unwrap().push(self.view.read_obj(GuestAddress(at)).unwrap());
    }
}

impl Subscriber for Witness {
    fn name(&self) -> &'static str {
        "witness"
    }

    fn invalidate_range_start(&self, invalidation: &Invalidation) -> Result<(), WouldBlock> {
        self.look(invalidation.range().start());
        Ok(())
    }

    fn invalidate_range_end(&self, invalidation: &Invalidation) {
        self.look(invalidation.range().start());
    }
}

fn told_before() {
    let mut machine = machine(Backing::Anonymous, M, 1);
    let ram = machine.ram().clone();
    run(&mut machine, words(Op::Fill, 0, M, 6));
    let witness = Arc::new(Witness { view: ram.view().clone(), seen: Mutex::default() });
    let id = ram.owner().register(witness.clone()).unwrap();

    ram.discard(range(0x8000, 0x1000)).unwrap();
    ram.owner().unregister(id).unwrap();
    ram.discard(range(0, 0x1000)).unwrap();

    // At the start the page was there as the guest had left it, at the end it was gone; nothing was told afterwards.
    assert_eq!(*witness.seen.lock().unwrap(), [pattern(RAM_BASE + 0x8000, 6), 0]);
}
