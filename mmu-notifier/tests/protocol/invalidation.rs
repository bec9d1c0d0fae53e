//! Start and end, who hears of them, and what is counted.

use std::{sync::Arc, thread, time::Duration};

use mmu_notifier::{
    Event, Invalidation, MmapLock, Subscriptions, Tag,
    testing::{Call, Recorder},
};

use crate::{pages, recorder, unmap};

#[test]
fn a_pair_is_seen_with_its_event_and_tag() {
    let subscriptions = Subscriptions::new();
    let (seen, _) = recorder(&subscriptions, "recorder");
    let tag = Tag::unique();
    let migrate = Invalidation::new(pages(3, 2), Event::Migrate).tagged(tag);

    subscriptions.invalidate_range_end(subscriptions.invalidate_range_start(subscriptions.exempt(), migrate));

    assert_eq!(seen.calls(), [Call::Start(migrate), Call::End(migrate)]);
    assert_eq!(migrate.tag(), Some(tag));
}

#[test]
fn invalidations_nest_and_run_under_any_witness() {
    let subscriptions = Subscriptions::new();
    let (seen, _) = recorder(&subscriptions, "recorder");
    let mmap_lock = MmapLock::new(());
    let read = mmap_lock.read();

    let outer = subscriptions.invalidate_range_start(&read, unmap(0, 8));
    drop(subscriptions.invalidate_range_start(&read, unmap(1, 1)));
    drop(outer);

    let expected =
        [Call::Start(unmap(0, 8)), Call::Start(unmap(1, 1)), Call::End(unmap(1, 1)), Call::End(unmap(0, 8))];
    assert_eq!(seen.calls(), expected);
}

#[test]
fn everyone_is_asked_to_forget_young_but_the_first_yes_is_enough_to_test() {
    let subscriptions = Subscriptions::new();
    let (old, _) = recorder(&subscriptions, "old");
    let young = Arc::new(Recorder::new("young").young());
    subscriptions.register(young.clone()).unwrap();
    let (last, _) = recorder(&subscriptions, "last");
    let range = pages(0, 1);

    let answers = (
        subscriptions.clear_flush_young(range),
        subscriptions.clear_young(range),
        subscriptions.test_young(0x10),
    );

    assert_eq!(answers, (true, true, true));
    let forgotten = [Call::ClearFlushYoung(range), Call::ClearYoung(range)];
    assert_eq!(last.calls(), forgotten);
    assert_eq!(old.calls()[..2], forgotten);
    assert_eq!(old.calls()[2..], [Call::TestYoung(0x10)]);
    assert_eq!(young.calls()[2..], [Call::TestYoung(0x10)]);
}

#[test]
fn counters_say_what_happened() {
    let subscriptions = Subscriptions::new();
    let (_, _) = recorder(&subscriptions, "recorder");
    let witness = subscriptions.exempt();
    drop(subscriptions.invalidate_range_start(witness, unmap(0, 1)));
    let untimed = subscriptions.counters();

    subscriptions.time_invalidations(true);
    thread::scope(|scope| {
        let subscriptions = &subscriptions;
        let clear = Invalidation::new(pages(0, 1), Event::Clear);
        for _ in 0..3 {
            scope.spawn(move || drop(subscriptions.invalidate_range_start(witness, clear)));
        }
    });

    let counters = subscriptions.counters();
    assert_eq!(counters.registrations, 1);
    assert_eq!(counters.invalidations_of(Event::Unmap), 1);
    assert_eq!(counters.invalidations_of(Event::Clear), 3);
    assert!(untimed.longest.is_zero());
    assert!(!counters.longest.is_zero());
}

#[test]
fn what_was_timed_with_nobody_listening_leaves_no_clock_running() {
    let subscriptions = Subscriptions::new();
    subscriptions.time_invalidations(true);
    subscriptions.release().unwrap();
    subscriptions.time_invalidations(false);

    thread::sleep(Duration::from_millis(20));
    drop(subscriptions.invalidate_range_start(subscriptions.exempt(), unmap(0, 1)));

    assert!(subscriptions.counters().longest < Duration::from_millis(20));
}
