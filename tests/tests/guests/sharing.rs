//! Two guests on one memory: what one writes the other reads, and what is taken away goes from both.

use std::{
    sync::{Arc, Mutex},
    thread,
};

use guest_mem::{Backing, FaultReason, GuestRam, HugePageSize, ManagedConfig, pool::FramePool};
use mmu_notifier::{AddressRange, Invalidation, Subscriber, WouldBlock};
use underlay_tests::{Need, Suite, huge_pages};
use vm_memory::{Bytes, GuestAddress};
use vmm::{
    driver::{Access, Command, Op, RAM_BASE},
    interrupt::Interrupt,
    kvm::Kvm,
    machine::{Machine, MachineConfig},
};

use super::{
    discard::range,
    support::{M, PAGE, config, run, touches, words},
};

const BYTES: u64 = 8 * M;
const HALF: u64 = BYTES / 2;

pub(crate) fn add_to(suite: &mut Suite) {
    for (backing, need) in [
        (Backing::Managed4kb, None),
        (Backing::Managed2mb, Some(Need::HugePages(HugePageSize::Mb2, BYTES / (2 * M)))),
        (Backing::ManagedThp, Some(Need::ShmemThp)),
    ] {
        let needs: Vec<_> = [Need::Kvm, Need::ManagedFaults].into_iter().chain(need).collect();
        let mut test = |name: &str, body: fn(&Backing)| {
            let backing = backing.clone();
            suite.test(format!("sharing::{backing}_{name}"), &needs, move || body(&backing));
        };
        test("is_read_by_one_as_the_other_wrote_it", read_what_the_other_wrote);
        test("goes_from_both_after_both_were_told", goes_from_both);
        test("is_taken_away_under_two_running_guests", taken_away_meanwhile);
        test("outlives_whichever_guest_ends_first", outlives);
    }
}

/// Two machines of `vcpus` each that share their RAM.
#[track_caller]
fn pair(backing: &Backing, vcpus: u32) -> [Machine; 2] {
    let managed = ManagedConfig { shared: true, ..ManagedConfig::default() };
    let machine = |shares| {
        let config =
            MachineConfig { managed: managed.clone(), shares, ..config(backing.clone(), BYTES, vcpus) };
        Machine::new(&Kvm::open().unwrap(), &config, &Interrupt::new().unwrap()).unwrap()
    };
    let first = machine(None);
    let second = machine(Some(first.ram().clone()));
    [first, second]
}

fn pool(machine: &Machine) -> Arc<FramePool> {
    Arc::clone(machine.ram().mm().unwrap().pool())
}

/// Every frame is free, and no reference to one is left.
#[track_caller]
fn assert_free(pool: &FramePool) {
    let usage = pool.report().usage;
    assert_eq!((usage.used, usage.resident, pool.report().charged), (0, 0, 0));
    assert_eq!(pool.folios().in_use(0..pool.frames()).count(), 0);
}

/// How many words of the `bytes` from `offset` on the guest finds other than filled with `seed`.
#[track_caller]
fn mismatches(machine: &mut Machine, offset: u64, bytes: u64, seed: u64) -> u64 {
    run(machine, words(Op::Verify, offset, bytes, seed)).outcome.mismatches
}

fn read_what_the_other_wrote(backing: &Backing) {
    let _pages = huge_pages(backing, BYTES);
    let [mut one, mut other] = pair(backing, 1);

    run(&mut one, words(Op::Fill, 0, BYTES, 7));
    assert_eq!(mismatches(&mut other, 0, BYTES, 7), 0);
    run(&mut other, words(Op::Fill, HALF, HALF, 8));
    assert_eq!(mismatches(&mut one, HALF, HALF, 8), 0);

    for machine in [&one, &other] {
        let usage = machine.ram().mm_report().unwrap().usage;
        assert_eq!((usage.mapped_bytes(), usage.pss_bytes, usage.pinned_bytes), (BYTES, BYTES / 2, 0));
    }
    assert_eq!(one.ram().report().unwrap().resident_bytes, Some(BYTES), "each page is there once");
}

/// Notes which ranges it was told of, and that no frame had been freed by then.
#[derive(Debug)]
struct Told {
    pool: Arc<FramePool>,
    log: Mutex<Vec<(&'static str, AddressRange)>>,
}

impl Told {
    fn register(ram: &GuestRam) -> Arc<Self> {
        let pool = Arc::clone(ram.mm().unwrap().pool());
        let told = Arc::new(Self { pool, log: Mutex::default() });
        ram.owner().register(Arc::clone(&told) as Arc<dyn Subscriber>).unwrap();
        told
    }

    fn note(&self, what: &'static str, range: AddressRange) {
        assert_eq!(self.pool.report().usage.used, BYTES / PAGE, "freed before the end");
        self.log.lock().unwrap().push((what, range));
    }
}

impl Subscriber for Told {
    fn name(&self) -> &'static str {
        "told"
    }

    fn invalidate_range_start(&self, invalidation: &Invalidation) -> Result<(), WouldBlock> {
        self.note("start", invalidation.range());
        Ok(())
    }

    fn invalidate_range_end(&self, invalidation: &Invalidation) {
        self.note("end", invalidation.range());
    }
}

fn goes_from_both(backing: &Backing) {
    let _pages = huge_pages(backing, BYTES);
    let [mut one, mut other] = pair(backing, 1);
    run(&mut one, words(Op::Fill, 0, BYTES, 7));
    assert_eq!(mismatches(&mut other, 0, BYTES, 7), 0);
    let told = [&one, &other].map(|machine| Told::register(machine.ram()));

    let gone = range(HALF, HALF);
    let discarded = one.ram().discard(gone).unwrap();

    assert_eq!((discarded.freed_bytes, discarded.pinned_bytes), (HALF, 0));
    for told in told {
        assert_eq!(*told.log.lock().unwrap(), [("start", gone), ("end", gone)]);
    }
    assert_eq!(pool(&one).report().usage.used, HALF / PAGE);
    for machine in [&mut one, &mut other] {
        assert_eq!(mismatches(machine, HALF, HALF, 7), HALF / 8, "not a word of it is left");
        assert_eq!(mismatches(machine, 0, HALF, 7), 0);
        let mut zeros = vec![0xff; usize::try_from(HALF).unwrap()];
        machine.ram().view().read_slice(&mut zeros, GuestAddress(RAM_BASE + HALF)).unwrap();
        assert!(zeros.iter().all(|byte| *byte == 0));
    }
}

fn taken_away_meanwhile(backing: &Backing) {
    let _pages = huge_pages(backing, BYTES);
    let [mut one, other] = pair(backing, 2);
    let rams = [&one, &other].map(|machine| machine.ram().clone());
    run(&mut one, words(Op::Fill, 0, HALF, 3));
    let passes = if backing.is_hugetlb() { 100 } else { 4 };
    let writes = Command { passes, ..touches(Access::ReadWrite, HALF, HALF) };
    let guests = [one, other].map(|mut machine| {
        thread::spawn(move || {
            machine.run(&[writes; 2]).unwrap();
            machine
        })
    });

    let mut rounds = 0;
    while guests.iter().any(|guest| !guest.is_finished()) {
        let [ram, another] = [&rams[rounds % 2], &rams[(rounds + 1) % 2]];
        let at = HALF + (rounds as u64 * 0x23_5000) % (HALF / 2);
        ram.discard(range(at, PAGE)).unwrap();
        another.mm().unwrap().dont_need(range(0, BYTES)).unwrap();
        another.discard(range(HALF, HALF)).unwrap();
        rounds += 1;
    }

    assert!(rounds > 0, "the host took pages away while the guests ran");
    let [mut one, mut other] = guests.map(|guest| guest.join().unwrap());
    let discarded = rams[0].discard(range(HALF, HALF)).unwrap();
    assert_eq!((discarded.freed_bytes, discarded.pinned_bytes), (HALF, 0));
    for machine in [&mut one, &mut other] {
        assert_eq!(mismatches(machine, 0, HALF, 3), 0, "what was not discarded is left alone");
        let faults = machine.ram().mm().unwrap().stats();
        assert_eq!((faults.of(FaultReason::Failed), machine.ram().replaced_handlers()), (0, 0), "{faults:?}");
    }
    run(&mut other, words(Op::Fill, HALF, HALF, 4));
    assert_eq!(mismatches(&mut one, HALF, HALF, 4), 0);
    let pool = pool(&one);
    drop((one, other, rams));
    assert_free(&pool);
}

fn outlives(backing: &Backing) {
    let _pages = huge_pages(backing, BYTES);
    for first in [0, 1] {
        let [mut one, other] = pair(backing, 1);
        let pool = pool(&one);
        run(&mut one, words(Op::Fill, 0, BYTES, 5));
        let (gone, mut left) = if first == 0 { (one, other) } else { (other, one) };
        if first == 1 {
            assert_eq!(mismatches(&mut left, 0, BYTES, 5), 0);
        }

        drop(gone);

        assert_eq!(mismatches(&mut left, 0, BYTES, 5), 0);
        assert_eq!(left.ram().mm_report().unwrap().usage.pss_bytes, BYTES, "nobody else has it");
        run(&mut left, words(Op::Fill, 0, BYTES, 6));
        assert_eq!(mismatches(&mut left, 0, BYTES, 6), 0);
        drop(left);
        assert_free(&pool);
    }
}
