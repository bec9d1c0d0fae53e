//! A panic, whoever's, leaves the pair whole and the owner usable.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

use mmu_notifier::{
    Subscriptions, UnregisterError,
    testing::{Call, Recorder},
};

use crate::{Calling, nothing, on_start, recorder, unmap};

/// Without the hook that prints a backtrace: std's cache of symbols is noise to ThreadSanitizer.
fn panic_quietly(why: &'static str) {
    resume_unwind(Box::new(why));
}

#[test]
fn a_panic_between_start_and_end_still_ends_it() {
    let subscriptions = Subscriptions::new();
    let (seen, _) = recorder(&subscriptions, "recorder");

    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let witness = subscriptions.exempt();
        let _guard = subscriptions.invalidate_range_start(witness, unmap(0, 1));
        panic_quietly("in the change");
    }));

    assert!(panicked.is_err());
    assert!(matches!(seen.calls()[..], [Call::Start(_), Call::End(_)]));
    // Would not return if the mark were still there.
    subscriptions.register(Arc::new(Recorder::new("later"))).unwrap();
}

#[test]
fn a_subscriber_that_panics_in_start_leaves_the_owner_usable() {
    let subscriptions = Subscriptions::new();
    let (before, _) = recorder(&subscriptions, "before");
    let panics = on_start(|| panic_quietly("in start"));
    let id = subscriptions.register(panics).unwrap();
    let (after, _) = recorder(&subscriptions, "after");
    let witness = subscriptions.exempt();

    let panicked = catch_unwind(AssertUnwindSafe(|| {
        drop(subscriptions.invalidate_range_start(witness, unmap(0, 1)));
    }));

    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"in start"));
    assert!(matches!(before.calls()[..], [Call::Start(_), Call::End(_)]));
    assert!(after.calls().is_empty());
    subscriptions.unregister(id).unwrap();
    drop(subscriptions.invalidate_range_start(witness, unmap(0, 1)));
    assert_eq!(before.calls().len(), 4);
}

#[test]
fn a_subscriber_that_panics_in_end_keeps_no_end_from_others() {
    let subscriptions = Subscriptions::new();
    let panics =
        Calling { start: nothing as fn(), end: || panic_quietly("in end"), release: nothing as fn() };
    subscriptions.register(Arc::new(panics)).unwrap();
    let (after, _) = recorder(&subscriptions, "after");
    let witness = subscriptions.exempt();

    let panicked = catch_unwind(AssertUnwindSafe(|| {
        drop(subscriptions.invalidate_range_start(witness, unmap(0, 1)));
    }));

    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"in end"));
    assert!(matches!(after.calls()[..], [Call::Start(_), Call::End(_)]));
    subscriptions.register(Arc::new(Recorder::new("later"))).unwrap();
}

#[test]
fn a_panic_in_release_is_passed_on_when_all_is_done() {
    let subscriptions = Subscriptions::new();
    let panics =
        Calling { start: nothing as fn(), end: nothing as fn(), release: || panic_quietly("in release") };
    let id = subscriptions.register(Arc::new(panics)).unwrap();

    let panicked = catch_unwind(AssertUnwindSafe(|| drop(subscriptions.unregister(id))));

    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"in release"));
    assert!(matches!(subscriptions.unregister(id), Err(UnregisterError::Stale)));
}
