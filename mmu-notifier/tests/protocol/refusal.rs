//! A start that may not block can be refused, and is rolled back.

use std::sync::Arc;

use mmu_notifier::{
    Refused, Subscriptions,
    testing::{Call, Recorder, Refuser},
};

use crate::{pages, recorder, unmap};

#[test]
fn a_refusal_is_rolled_back_and_names_who_refused() {
    let subscriptions = Subscriptions::new();
    let (before, _) = recorder(&subscriptions, "before");
    let refuser = Arc::new(Refuser::new("refuser"));
    subscriptions.register(refuser.clone()).unwrap();
    let (after, _) = recorder(&subscriptions, "after");

    let refusal =
        subscriptions.invalidate_range_start_nonblock(subscriptions.exempt(), unmap(0, 1)).unwrap_err();

    assert_eq!(refusal, Refused { by: "refuser".into(), range: pages(0, 1) });
    assert!(matches!(before.calls()[..], [Call::Start(_), Call::End(_)]));
    assert_eq!((refuser.refusals(), refuser.ends()), (1, 0));
    assert!(after.calls().is_empty());
    assert_eq!(subscriptions.counters().refusals, 1);
}

#[test]
fn an_interval_refuses_too_and_its_readers_go_on() {
    let subscriptions = Subscriptions::new();
    let first = Arc::new(Recorder::new("first"));
    let first = subscriptions.insert(pages(0, 2), first).unwrap();
    let refuser = subscriptions.insert(pages(1, 2), Arc::new(Refuser::new("refuser"))).unwrap();
    let (range, _) = recorder(&subscriptions, "range");
    let sequence = first.read_begin();

    let refusal =
        subscriptions.invalidate_range_start_nonblock(subscriptions.exempt(), unmap(0, 8)).unwrap_err();

    assert_eq!(&*refusal.by, "refuser");
    assert!(first.read_retry(sequence));
    assert!(!first.read_retry(first.read_begin()));
    assert!(refuser.try_read_begin().is_some());
    assert!(range.calls().is_empty());
}

#[test]
fn a_start_that_may_block_cannot_be_refused() {
    let subscriptions = Subscriptions::new();
    let refuser = Arc::new(Refuser::new("refuser"));
    subscriptions.register(refuser.clone()).unwrap();

    drop(subscriptions.invalidate_range_start(subscriptions.exempt(), unmap(0, 1)));

    assert_eq!((refuser.refusals(), refuser.ends()), (0, 1));
}
