//! A running RAM goes on whatever fails, and is as empty as a new one in the end.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{toucher::Toucher, *};
use crate::{
    Filler, ServiceConfig, Stock,
    host::{Operation, RandomPlan},
    pgtable,
};

/// What a running RAM calls.
const CALLS: [Operation; 8] = [
    Operation::Continue,
    Operation::WriteProtect,
    Operation::Wake,
    Operation::Zap,
    Operation::ReadEvents,
    Operation::Poll,
    Operation::Fallocate,
    Operation::Punch,
];

/// Two threads that each use their half for so many steps; says how much was refused to them.
fn use_by_two(ram: &GuestRam, steps: u64, seed: u64) -> u64 {
    thread::scope(|scope| {
        let threads = [0, 1].map(|half| {
            let mut toucher = Toucher::new(ram, part(ram, half * SIZE / 2, SIZE / 2), seed * 2 + half);
            scope.spawn(move || {
                (0..steps).for_each(|_| toucher.step());
                toucher.check_all();
                toucher.refused
            })
        });
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

/// Discards everything: nobody has a frame then, and every count is as it was.
#[track_caller]
fn assert_emptied(ram: &GuestRam) {
    let mm = ram.mm().unwrap();
    let started = Instant::now();
    // An event that a touch left behind, doubled or late, may have a handler map its page once more.
    while started.elapsed() < Duration::from_secs(10) {
        ram.discard(ram.range()).unwrap();
        thread::sleep(Duration::from_millis(2));
        if mm.page_table().mapped() == pgtable::Mapped::default() {
            break;
        }
    }
    assert_eq!((mm.page_table().mapped().base, mm.page_table().mapped().huge), (0, 0));
    mm.pool().assert_all_free();
}

fn stocks() -> [Stock; 2] {
    [Stock::None, Stock::Blocks(1)]
}

#[test]
fn each_error_of_each_call_is_survived_once() {
    alone("running::each_error_of_each_call_is_survived_once", || {
        for_each_backing(|backing| {
            use_by_two(&make(backing.clone(), ManagedConfig::default(), &Injector::none()).unwrap(), 100, 1);
            let before = Holdings::now();
            let each = |operation: Operation| operation.errnos().iter().map(move |errno| (operation, *errno));
            for (operation, errno) in CALLS.into_iter().flat_map(each) {
                for (nth, stock) in [1, 2, 7].into_iter().zip(stocks().into_iter().cycle()) {
                    let injector = Injector::armable();
                    let config = ManagedConfig { stock, ..ManagedConfig::default() };
                    let ram = make(backing.clone(), config, &injector).unwrap();
                    injector.fail_nth(operation, nth, errno);

                    use_by_two(&ram, 100, nth);

                    injector.disarm();
                    assert_emptied(&ram);
                    drop(ram);
                    before.assert_left(&format!("{operation:?} {nth} failed with {errno} of {backing}"));
                }
            }
        });
    });
}

#[test]
fn errors_by_chance_are_survived() {
    alone("running::errors_by_chance_are_survived", || {
        for_each_backing(|backing| {
            use_by_two(&make(backing.clone(), ManagedConfig::default(), &Injector::none()).unwrap(), 100, 1);
            let before = Holdings::now();
            let mut injected = 0;
            for seed in 0..24_u64 {
                let injector = Injector::armable();
                let handlers = NonZeroUsize::MIN.saturating_add(usize::from(!seed.is_multiple_of(2)));
                let service = ServiceConfig { handlers, ..ServiceConfig::default() };
                let stock = stocks()[usize::from(seed % 4 < 2)];
                let config = ManagedConfig { service, stock, ..ManagedConfig::default() };
                let ram = make(backing.clone(), config, &injector).unwrap();
                injector.fail_randomly(RandomPlan { seed, one_in: 2 + seed % 7, operations: &CALLS });

                use_by_two(&ram, 500, seed);

                injector.disarm();
                injected += injector.injected();
                assert_emptied(&ram);
                drop(ram);
                before.assert_left(&format!("seed {seed} of {backing}"));
            }
            assert!(injected > 1000, "{injected} calls failed");
            println!("{backing}: {injected} calls failed");
        });
    });
}

#[test]
fn whoever_touches_while_all_calls_fail_gets_memory_when_they_work_again() {
    let name = "running::whoever_touches_while_all_calls_fail_gets_memory_when_they_work_again";
    alone(name, || {
        for_each_backing(|backing| {
            let before = Holdings::now();
            for operations in [
                &[Operation::Continue] as &[_],
                &[Operation::Fallocate],
                &[Operation::ReadEvents],
                &[Operation::Poll],
                &[Operation::Continue, Operation::Zap],
            ] {
                let injector = Injector::armable();
                let config = ManagedConfig { stock: Stock::None, ..ManagedConfig::default() };
                let ram = make(backing.clone(), config, &injector).unwrap();
                injector.fail_randomly(RandomPlan { seed: 5, one_in: 1, operations });

                thread::scope(|scope| {
                    let toucher = scope.spawn(|| ram.view().write_obj(7_u64, GuestAddress(8)).unwrap());
                    thread::sleep(Duration::from_millis(50));
                    injector.disarm();
                    toucher.join().unwrap();
                });

                assert_eq!(ram.view().read_obj::<u64>(GuestAddress(8)).unwrap(), 7);
                assert!(injector.injected() > 0, "{operations:?}");
                assert_emptied(&ram);
                drop(ram);
                before.assert_left(&format!("{operations:?} of {backing}"));
            }
        });
    });
}

/// Panics at each of its first calls, then fills pages with sevens.
struct Panicking(AtomicU64);

impl Filler for Panicking {
    fn name(&self) -> &'static str {
        "panicking"
    }

    fn fill(&self, _: u64, into: &mut [u8]) -> io::Result<()> {
        let call = self.0.fetch_add(1, Relaxed);
        assert!(call >= 4, "planted");
        into.fill(7);
        Ok(())
    }
}

#[test]
fn a_handler_that_cannot_be_replaced_at_once_is_replaced_later() {
    alone("running::a_handler_that_cannot_be_replaced_at_once_is_replaced_later", || {
        let before = Holdings::now();
        let injector = Injector::armable();
        let config = ManagedConfig {
            filler: Some(Arc::new(Panicking(AtomicU64::new(0)))),
            ..ManagedConfig::default()
        };
        let ram = make(Backing::Managed4kb, config, &injector).unwrap();
        for nth in [1, 2, 4, 5] {
            injector.fail_nth(Operation::Spawn, nth, libc::EAGAIN);
        }

        assert_filled(&ram, ram.range(), 7);

        assert_eq!((ram.replaced_handlers(), injector.injected()), (4, 4));
        assert_emptied(&ram);
        drop(ram);
        before.assert_left("handlers were replaced");
    });
}

#[test]
fn dropping_a_ram_leaves_nothing_although_calls_fail() {
    alone("running::dropping_a_ram_leaves_nothing_although_calls_fail", || {
        for_each_backing(|backing| {
            let before = Holdings::now();
            let each = |operation: Operation| operation.errnos().iter().map(move |errno| (operation, *errno));
            let calls = [Operation::Zap, Operation::Punch, Operation::Fallocate, Operation::ReadEvents];
            for (operation, errno) in calls.into_iter().flat_map(each) {
                let injector = Injector::armable();
                let ram = make(backing.clone(), ManagedConfig::default(), &injector).unwrap();
                fill(&ram, part(&ram, 0, 3 * M), 7);
                for nth in 1..=64 {
                    injector.fail_nth(operation, nth, errno);
                }

                drop(ram);

                before.assert_left(&format!("{operation:?} failed with {errno} of {backing}"));
            }
        });
    });
}

#[test]
fn what_a_view_still_shows_is_kept_until_the_view_goes() {
    alone("running::what_a_view_still_shows_is_kept_until_the_view_goes", || {
        for_each_backing(|backing| {
            let before = Holdings::now();
            let injector = Injector::armable();
            let ram = make(backing.clone(), ManagedConfig::default(), &injector).unwrap();
            fill(&ram, ram.range(), 7);
            let (view, pool) = (ram.view().clone(), Arc::downgrade(ram.mm().unwrap().pool()));
            // No plain memory can be put in its place.
            injector.fail_nth(Operation::Map, 1, libc::ENOMEM);

            drop(ram);

            let found = view.read_obj::<u64>(GuestAddress(M)).unwrap();
            assert!([0, u64::from_ne_bytes([7; 8])].contains(&found), "{found:#x}");
            view.write_obj(8_u64, GuestAddress(M)).unwrap();
            assert!(pool.upgrade().is_some(), "somebody else may have its frames");
            drop(view);
            assert!(pool.upgrade().is_none());
            before.assert_left(&format!("the last view of {backing}"));
        });
    });
}
