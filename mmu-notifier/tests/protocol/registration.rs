//! What registration waits for, and where it may not be called.

use std::{
    sync::{Arc, Barrier, Mutex, Weak},
    thread,
};

use mmu_notifier::{
    MmapLock, RegisterError, Subscriptions, UnregisterError, WrongPlace,
    testing::{Call, Recorder},
};

use crate::{on_start, recorder, unmap};

#[test]
fn register_waits_for_what_was_in_flight_and_for_nothing_later() {
    let subscriptions = Subscriptions::new();
    let witness = subscriptions.exempt();
    let earlier = subscriptions.invalidate_range_start(witness, unmap(0, 1));

    let later = thread::scope(|scope| {
        let registering = scope.spawn(|| recorder(&subscriptions, "recorder"));
        // Counted when the marks were scanned. To be announced is not enough: one that begins between publication and
        // scan is announced and waited for.
        while subscriptions.counters().registrations == 0 {
            thread::yield_now();
        }
        let later = subscriptions.invalidate_range_start(witness, unmap(1, 1));
        assert!(!registering.is_finished());
        drop(earlier);
        let (recorder, _) = registering.join().unwrap();
        assert_eq!(recorder.calls(), [Call::Start(unmap(1, 1))]);
        later
    });

    drop(later);
}

/// More invalidations at once than there are slots in a block.
#[test]
fn any_number_of_invalidations_is_waited_for() {
    const THREADS: usize = if cfg!(miri) { 18 } else { 40 };
    let subscriptions = Subscriptions::new();
    let (started, may_end) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));

    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let witness = subscriptions.exempt();
                let _guard = subscriptions.invalidate_range_start(witness, unmap(0, 1));
                started.wait();
                may_end.wait();
            });
        }
        started.wait();
        let registering = scope.spawn(|| recorder(&subscriptions, "recorder"));
        thread::yield_now();
        assert!(!registering.is_finished());
        may_end.wait();
        let (recorder, _) = registering.join().unwrap();
        assert!(recorder.calls().is_empty());
    });
}

#[test]
fn in_a_callback_and_between_start_and_end_registration_errs() {
    let subscriptions = Arc::new(Subscriptions::new());
    let (other, other_id) = recorder(&subscriptions, "other");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let inside: Weak<Subscriptions> = Arc::downgrade(&subscriptions);
    let log = seen.clone();
    subscriptions
        .register(on_start(move || {
            let subscriptions = inside.upgrade().unwrap();
            log.lock().unwrap().push((
                subscriptions.register(Arc::new(Recorder::new("inner"))).is_err(),
                subscriptions.unregister(other_id).is_err(),
                subscriptions.release().is_err(),
            ));
        }))
        .unwrap();

    let witness = subscriptions.exempt();
    let guard = subscriptions.invalidate_range_start(witness, unmap(0, 1));
    let between = subscriptions.register(other.clone()).unwrap_err();
    drop(guard);

    assert_eq!(seen.lock().unwrap()[..], [(true, true, true)]);
    assert!(matches!(between, RegisterError::WrongPlace(WrongPlace::InsideOperation)));
    subscriptions.unregister(other_id).unwrap();
}

#[test]
fn another_owners_invalidation_does_not_forbid_registration() {
    let (one, other) = (Subscriptions::new(), Subscriptions::new());
    let guard = one.invalidate_range_start(one.exempt(), unmap(0, 1));

    let registered = other.register(Arc::new(Recorder::new("other")));

    assert!(registered.is_ok());
    drop(guard);
}

#[test]
fn with_a_ranked_lock_held_registration_errs() {
    let subscriptions = Subscriptions::new();
    let (recorder, id) = recorder(&subscriptions, "recorder");
    let mmap_lock = MmapLock::new(());
    let read = mmap_lock.read();

    let registered = subscriptions.register(recorder).unwrap_err();
    let unregistered = subscriptions.unregister(id).map(|_| ()).unwrap_err();

    assert!(matches!(registered, RegisterError::WrongPlace(WrongPlace::LockHeld)));
    assert!(matches!(unregistered, UnregisterError::WrongPlace(WrongPlace::LockHeld)));
    drop(read);
    subscriptions.unregister(id).unwrap();
}
