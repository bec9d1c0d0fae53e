//! Making managed RAM works or fails with a clear error, and leaves nothing behind.

use super::*;
use crate::{Stock, host::Operation};

/// What making RAM calls.
const CALLS: [Operation; 11] = [
    Operation::Open,
    Operation::Handshake,
    Operation::Register,
    Operation::MemfdCreate,
    Operation::Truncate,
    Operation::Seal,
    Operation::Map,
    Operation::Advise,
    Operation::EventFd,
    Operation::Spawn,
    Operation::Fallocate,
];

#[test]
fn making_works_or_leaves_nothing_whichever_call_fails() {
    alone("creation::making_works_or_leaves_nothing_whichever_call_fails", || {
        for_each_backing(|backing| {
            // The first leaves what the process keeps for good, such as stacks of threads.
            use_up(make(backing.clone(), ManagedConfig::default(), &Injector::none()));
            let counting = Injector::armable();
            let config = ManagedConfig { stock: Stock::Blocks(1), ..ManagedConfig::default() };
            let before = Holdings::now();
            use_up(make(backing.clone(), config.clone(), &counting));
            before.assert_left("nothing failed");

            for operation in CALLS {
                let calls = counting.calls(operation).min(4);
                let none = *backing == Backing::Managed2mb && operation == Operation::Advise;
                assert!(calls > 0 || none, "{operation:?} is not called");
                for (nth, &errno) in
                    (1..=calls).flat_map(|nth| operation.errnos().iter().map(move |errno| (nth, errno)))
                {
                    let injector = Injector::armable();
                    injector.fail_nth(operation, nth, errno);

                    use_up(make(backing.clone(), config.clone(), &injector));

                    before.assert_left(&format!("{operation:?} {nth} failed with {errno} of {backing}"));
                }
            }
        });
    });
}

#[test]
fn sharing_works_or_leaves_nothing_whichever_call_fails() {
    alone("creation::sharing_works_or_leaves_nothing_whichever_call_fails", || {
        for_each_backing(|backing| {
            let config = ManagedConfig { shared: true, stock: Stock::None, ..ManagedConfig::default() };
            let first = make(backing.clone(), config, &Injector::none()).unwrap();
            fill(&first, first.range(), 5);
            let size = ByteSize::new(SIZE).unwrap();
            let share = |injector: &Injector| {
                first.share_unless_injected(&GuestRamConfig::new(size, backing.clone()), injector)
            };
            use_up(share(&Injector::none()));
            let counting = Injector::armable();
            let before = Holdings::now();
            use_up(share(&counting));
            before.assert_left("nothing failed");

            for operation in CALLS {
                let calls = counting.calls(operation).min(4);
                for (nth, &errno) in
                    (1..=calls).flat_map(|nth| operation.errnos().iter().map(move |errno| (nth, errno)))
                {
                    let injector = Injector::armable();
                    injector.fail_nth(operation, nth, errno);

                    use_up(share(&injector));

                    before.assert_left(&format!("{operation:?} {nth} failed with {errno} of {backing}"));
                }
            }
            assert_filled(&first, first.range(), 7);
        });
    });
}

/// Touches all of what was made, or looks at why nothing was.
#[track_caller]
fn use_up(made: Result<GuestRam, CreateRamError>) {
    match made {
        Ok(ram) => {
            fill(&ram, ram.range(), 7);
            assert_filled(&ram, ram.range(), 7);
        }
        Err(error) => {
            let mut causes = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
            let said = causes.by_ref().map(ToString::to_string).collect::<Vec<_>>().join(": ");
            let causes = ["os error", "huge pages", "userfaultfd does not take the guest RAM: "];
            assert!(causes.iter().any(|cause| said.contains(cause)), "no cause: {said}");
        }
    }
}
