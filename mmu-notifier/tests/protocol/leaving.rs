//! Unregistration, and the end of the address space.

use std::{sync::Arc, thread};

use mmu_notifier::{
    AddressRange, Event, Invalidation, RegisterError, Subscriptions, UnregisterError,
    testing::{Call, Recorder},
};

use crate::{pages, recorder, unmap};

#[test]
fn unregister_does_not_wait_for_an_open_invalidation_which_sends_no_end_then() {
    let subscriptions = Subscriptions::new();
    let (leaving, id) = recorder(&subscriptions, "leaving");
    let (staying, _) = recorder(&subscriptions, "staying");
    let guard = subscriptions.invalidate_range_start(subscriptions.exempt(), unmap(0, 1));

    thread::scope(|scope| {
        scope.spawn(|| subscriptions.unregister(id).unwrap()).join().unwrap();
    });
    drop(guard);

    assert!(matches!(leaving.calls()[..], [Call::Start(_), Call::Release]));
    assert!(matches!(staying.calls()[..], [Call::Start(_), Call::End(_)]));
}

#[test]
fn unregister_gives_back_the_only_reference() {
    let subscriptions = Subscriptions::new();
    let id = subscriptions.register(Arc::new(Recorder::new("alone"))).unwrap();
    let guard = subscriptions.invalidate_range_start(subscriptions.exempt(), unmap(0, 1));

    let back = thread::scope(|scope| scope.spawn(|| subscriptions.unregister(id).unwrap()).join().unwrap());

    assert_eq!(Arc::strong_count(&back), 1);
    drop(guard);
}

#[test]
fn a_handle_is_good_once_and_for_its_owner_only() {
    let (one, other) = (Subscriptions::new(), Subscriptions::new());
    let (_, id) = recorder(&one, "recorder");

    assert!(matches!(other.unregister(id), Err(UnregisterError::OtherOwner)));
    one.unregister(id).unwrap();
    let (_, fresh) = recorder(&one, "fresh");
    assert!(matches!(one.unregister(id), Err(UnregisterError::Stale)));
    one.unregister(fresh).unwrap();
}

#[test]
fn the_end_of_the_address_space_releases_everyone_once() {
    let subscriptions = Subscriptions::new();
    let (range, id) = recorder(&subscriptions, "range");
    let interval = Arc::new(Recorder::new("interval"));
    let subscription = subscriptions.insert(pages(5, 1), interval.clone()).unwrap();
    let sequence = subscription.read_begin();

    subscriptions.release().unwrap();
    subscriptions.release().unwrap();
    drop(subscriptions.invalidate_range_start(subscriptions.exempt(), unmap(0, 8)));
    let back = subscriptions.unregister(id);

    assert_eq!(range.calls(), [Call::Release]);
    let everything = Invalidation::new(AddressRange::ALL, Event::Release);
    assert_eq!(interval.calls(), [Call::Invalidate(everything)]);
    assert!(subscription.read_retry(sequence));
    assert!(back.is_ok());
    assert!(matches!(subscriptions.register(range), Err(RegisterError::Ended)));
    assert!(matches!(subscriptions.insert(pages(0, 1), interval), Err(RegisterError::Ended)));
}

#[test]
fn dropping_the_owner_ends_the_address_space() {
    let subscriptions = Subscriptions::new();
    let (range, _) = recorder(&subscriptions, "range");

    drop(subscriptions);

    assert_eq!(range.calls(), [Call::Release]);
    assert_eq!(Arc::strong_count(&range), 1);
}
