//! Pages that are lost for good, and those that only seem to be.

use std::io::ErrorKind;

use super::*;
use crate::{
    FaultReason, Stock,
    host::{Operation, RandomPlan},
    vma::{HugePolicy, VmaChange},
};

const PATIENCE: Duration = Duration::from_millis(200);

fn impatient() -> ManagedConfig {
    ManagedConfig { patience: PATIENCE, stock: Stock::None, ..ManagedConfig::default() }
}

/// Has the kernel read guest memory, which fails where a thread's own access would end the process.
fn read_by_kernel(ram: &GuestRam, address: u64) -> io::Result<()> {
    let mut file = tempfile::tempfile()?;
    ram.view().write_all_volatile_to(GuestAddress(address), &mut file, 8).map_err(io::Error::other)
}

#[test]
fn a_page_that_is_never_to_be_had_is_a_clear_stop() {
    alone("lost::a_page_that_is_never_to_be_had_is_a_clear_stop", || {
        for_each_backing(|backing| {
            let before = Holdings::now();
            let injector = Injector::armable();
            let ram = make(backing.clone(), impatient(), &injector).unwrap();
            injector.fail_randomly(RandomPlan { seed: 1, one_in: 1, operations: &[Operation::Fallocate] });

            let refused = read_by_kernel(&ram, 3 * PAGE_SIZE).unwrap_err();

            assert_eq!(refused.kind(), ErrorKind::Other, "{refused}");
            assert_eq!(ram.mm().unwrap().stats().of(FaultReason::Poisoned), 1);
            injector.disarm();
            assert_filled(&ram, part(&ram, SIZE / 2, SIZE / 2), 0);
            drop(ram);
            before.assert_left(&format!("a page of {backing} was lost"));
        });
    });
}

#[test]
fn a_page_that_was_given_up_is_to_be_had_again_when_a_part_of_it_was_discarded() {
    alone("lost::a_page_that_was_given_up_is_to_be_had_again_when_a_part_of_it_was_discarded", || {
        for_each_backing(|backing| {
            let injector = Injector::armable();
            let ram = make(backing.clone(), impatient(), &injector).unwrap();
            injector.fail_randomly(RandomPlan { seed: 1, one_in: 1, operations: &[Operation::Fallocate] });
            read_by_kernel(&ram, 3 * PAGE_SIZE).unwrap_err();
            injector.disarm();
            // What made it fail has passed, and nobody has said so.
            read_by_kernel(&ram, 3 * PAGE_SIZE).unwrap_err();

            ram.discard(part(&ram, 3 * PAGE_SIZE, PAGE_SIZE)).unwrap();

            read_by_kernel(&ram, 3 * PAGE_SIZE).unwrap();
            fill(&ram, ram.range(), 7);
            assert_filled(&ram, ram.range(), 7);
        });
    });
}

#[test]
fn an_entry_that_the_host_lost_is_made_again() {
    alone("lost::an_entry_that_the_host_lost_is_made_again", || {
        let ram = make(Backing::Managed4kb, ManagedConfig::default(), &Injector::none()).unwrap();
        let mm = ram.mm().unwrap();
        mm.modify(ram.range(), &VmaChange::Huge(HugePolicy::Always)).unwrap();
        fill(&ram, ram.range(), 7);
        assert_eq!(mm.page_table().mapped().huge, SIZE >> 21);

        ram.mapping.advise(8 * PAGE_SIZE..9 * PAGE_SIZE, Advice::DontNeed).unwrap();

        assert_filled(&ram, ram.range(), 7);
    });
}

#[test]
fn a_page_whose_faults_fail_now_and_then_is_not_lost() {
    alone("lost::a_page_whose_faults_fail_now_and_then_is_not_lost", || {
        for_each_backing(|backing| {
            let injector = Injector::armable();
            let ram = make(backing.clone(), impatient(), &injector).unwrap();
            let started = Instant::now();
            while started.elapsed() < 3 * PATIENCE {
                injector.fail_nth(Operation::Continue, 1, libc::ENOMEM);

                read_by_kernel(&ram, 0).unwrap();
                ram.discard(ram.range()).unwrap();
            }

            let stats = ram.mm().unwrap().stats();
            assert!(stats.of(FaultReason::Failed) > 1, "{stats:?}");
            assert_eq!(stats.of(FaultReason::Poisoned), 0);
        });
    });
}
