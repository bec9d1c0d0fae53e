use std::io;

use super::{Injector, Operation, RandomPlan};

fn errno(result: io::Result<()>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn an_injector_that_nobody_armed_lets_every_call_through() {
    for injector in [Injector::none(), Injector::armable()] {
        let failures = (0..100).filter(|_| injector.check(Operation::Continue).is_err());

        assert_eq!(failures.count(), 0);
    }
}

#[test]
fn the_nth_call_of_an_operation_fails_once_whatever_else_is_called() {
    let injector = Injector::armable();
    injector.check(Operation::Wake).unwrap();
    injector.check(Operation::Fallocate).unwrap();

    injector.fail_nth(Operation::Fallocate, 2, libc::ENOSPC);
    let results: Vec<_> = (0..4)
        .map(|_| {
            injector.check(Operation::Wake).unwrap();
            errno(injector.check(Operation::Fallocate))
        })
        .collect();

    assert_eq!(results, [None, Some(libc::ENOSPC), None, None]);
    assert_eq!((injector.calls(Operation::Fallocate), injector.injected()), (5, 1));
}

#[test]
fn two_calls_of_one_operation_may_be_armed_at_once() {
    let injector = Injector::armable();

    injector.fail_nth(Operation::Punch, 3, libc::EIO);
    injector.fail_nth(Operation::Punch, 1, libc::EINTR);

    let results = [(); 3].map(|()| errno(injector.check(Operation::Punch)));
    assert_eq!(results, [Some(libc::EINTR), None, Some(libc::EIO)]);
}

#[test]
fn clones_share_one_plan_and_other_injectors_do_not() {
    let injector = Injector::armable();
    let (clone, other) = (injector.clone(), Injector::armable());

    injector.fail_nth(Operation::Map, 1, libc::ENOMEM);

    assert_eq!(errno(other.check(Operation::Map)), None);
    assert_eq!(errno(clone.check(Operation::Map)), Some(libc::ENOMEM));
    assert_eq!(errno(injector.check(Operation::Map)), None);
}

#[test]
fn a_disarmed_injector_lets_every_call_through() {
    let injector = Injector::armable();
    injector.fail_nth(Operation::Map, 1, libc::ENOMEM);
    injector.fail_randomly(RandomPlan { seed: 0, one_in: 1, operations: &[Operation::Map] });

    injector.disarm();

    assert_eq!(errno(injector.check(Operation::Map)), None);
}

fn history(plan: RandomPlan, between: impl Fn(&Injector)) -> Vec<Option<i32>> {
    let injector = Injector::armable();
    injector.fail_randomly(plan);
    let call = |_| {
        between(&injector);
        errno(injector.check(Operation::Continue))
    };
    (0..10_000).map(call).collect()
}

#[test]
fn a_random_plan_is_the_same_again_with_the_same_seed_only() {
    let plan = RandomPlan { seed: 7, one_in: 10, operations: &[Operation::Continue] };

    let once = history(plan, |_| ());
    let again = history(plan, |injector| injector.check(Operation::Wake).unwrap());
    let other = history(RandomPlan { seed: 8, ..plan }, |_| ());

    assert_eq!(once, again);
    assert_ne!(once, other);
}

#[test]
fn a_random_plan_fails_its_share_of_calls_with_every_documented_error() {
    let plan = RandomPlan { seed: 1, one_in: 10, operations: &[Operation::Continue] };

    let history = history(plan, |_| ());

    let failures = history.iter().flatten().count();
    assert!((800..1200).contains(&failures), "{failures} of 10000 failed");
    for errno in Operation::Continue.errnos() {
        assert!(history.contains(&Some(*errno)), "none failed with {errno}");
    }
    let documented = |errno: &i32| Operation::Continue.errnos().contains(errno);
    assert!(history.iter().flatten().all(documented));
}

#[test]
fn a_random_plan_of_one_in_one_fails_its_operations_and_no_others() {
    let injector = Injector::armable();
    injector.fail_randomly(RandomPlan { seed: 3, one_in: 1, operations: &[Operation::Zap] });

    let zaps = (0..100).filter(|_| injector.check(Operation::Zap).is_err()).count();
    let wakes = (0..100).filter(|_| injector.check(Operation::Wake).is_err()).count();

    assert_eq!((zaps, wakes), (100, 0));
}
