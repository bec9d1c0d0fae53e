//! Range notifiers: coming and going while invalidations run, release, refusal.

use std::sync::{
    Arc,
    atomic::{AtomicI32, AtomicU32, Ordering::SeqCst},
};

use super::{Memory, model, unmap};
use crate::{
    Invalidation, Subscriber, Subscriptions, WouldBlock, planted::Bug, sync::thread, testing::Refuser,
};

/// Uses memory of its own in each callback, and checks that ends follow starts.
#[derive(Default)]
struct Watched {
    memory: Memory,
    // std's: what is counted must not order what is modelled.
    open: AtomicI32,
    starts: AtomicU32,
    releases: AtomicU32,
}

impl Watched {
    fn free(&self) {
        self.memory.free();
    }
}

impl Subscriber for Watched {
    fn name(&self) -> &'static str {
        "watched"
    }

    fn invalidate_range_start(&self, _: &Invalidation) -> Result<(), WouldBlock> {
        self.memory.use_it();
        self.open.fetch_add(1, SeqCst);
        self.starts.fetch_add(1, SeqCst);
        Ok(())
    }

    fn invalidate_range_end(&self, _: &Invalidation) {
        self.memory.use_it();
        assert!(self.open.fetch_sub(1, SeqCst) > 0, "an end without its start");
    }

    fn release(&self) {
        assert_eq!(self.releases.fetch_add(1, SeqCst), 0, "released twice");
    }
}

fn invalidate(subscriptions: &Arc<Subscriptions>) -> thread::JoinHandle<()> {
    let subscriptions = subscriptions.clone();
    thread::spawn(move || drop(subscriptions.invalidate_range_start(subscriptions.exempt(), unmap())))
}

/// Behind unregistration the subscriber's memory may go.
///
/// Bound: 2 threads, one invalidation, one subscriber; 3 forced switches.
fn unregister_against_a_callback(planted: Option<Bug>) {
    model(planted, || {
        let subscriptions = Arc::new(Subscriptions::new());
        let watched = Arc::new(Watched::default());
        let id = subscriptions.register(watched.clone()).unwrap();
        let invalidating = invalidate(&subscriptions);

        subscriptions.unregister(id).unwrap();

        watched.free();
        assert_eq!(watched.releases.load(SeqCst), 1);
        invalidating.join().unwrap();
    });
}

/// The address space ends while a subscriber leaves; to both it was released once.
///
/// Bound: 2 threads, one subscriber; 3 forced switches.
fn release_against_unregister(planted: Option<Bug>) {
    model(planted, || {
        let subscriptions = Arc::new(Subscriptions::new());
        let watched = Arc::new(Watched::default());
        let id = subscriptions.register(watched.clone()).unwrap();
        let ending = thread::spawn({
            let (subscriptions, watched) = (subscriptions.clone(), watched.clone());
            move || {
                subscriptions.release().unwrap();
                assert_eq!(watched.releases.load(SeqCst), 1);
            }
        });

        subscriptions.unregister(id).unwrap();

        assert_eq!(watched.releases.load(SeqCst), 1);
        ending.join().unwrap();
    });
}

/// A pair around which a subscriber comes: both or neither; and the list it goes by stays.
///
/// Bound: 2 threads, one invalidation, 2 subscribers; 3 forced switches.
fn registration_across_a_pair(planted: Option<Bug>) {
    model(planted, || {
        let subscriptions = Arc::new(Subscriptions::new());
        let (old, new) = (Arc::new(Watched::default()), Arc::new(Watched::default()));
        subscriptions.register(old.clone()).unwrap();
        let invalidating = invalidate(&subscriptions);

        subscriptions.register(new.clone()).unwrap();

        invalidating.join().unwrap();
        assert_eq!(old.starts.load(SeqCst), 1);
        assert_eq!(old.open.load(SeqCst) + new.open.load(SeqCst), 0);
    });
}

/// Refused by the second of two while that one leaves.
///
/// Bound: 2 threads, one invalidation, 2 subscribers; 3 forced switches.
fn refusal(planted: Option<Bug>) {
    model(planted, || {
        let subscriptions = Arc::new(Subscriptions::new());
        let (told, refuser) = (Arc::new(Watched::default()), Arc::new(Refuser::new("refuser")));
        subscriptions.register(told.clone()).unwrap();
        let id = subscriptions.register(refuser.clone()).unwrap();
        let invalidating = thread::spawn({
            let subscriptions = subscriptions.clone();
            move || {
                let exempt = subscriptions.exempt();
                subscriptions.invalidate_range_start_nonblock(exempt, unmap()).is_ok()
            }
        });

        subscriptions.unregister(id).unwrap();

        let started = invalidating.join().unwrap();
        assert_eq!(started, refuser.refusals() == 0);
        assert_eq!((told.starts.load(SeqCst), told.open.load(SeqCst)), (1, 0));
        assert_eq!(refuser.ends(), 0, "an end to who refused");
    });
}

#[test]
fn unregister_waits_for_a_running_callback() {
    unregister_against_a_callback(None);
}

#[test]
#[should_panic(expected = "ausality violation")]
fn planted_call_without_fence_is_caught() {
    unregister_against_a_callback(Some(Bug::CallWithoutFence));
}

#[test]
#[should_panic(expected = "ausality violation")]
fn planted_missing_wait_for_callbacks_is_caught() {
    unregister_against_a_callback(Some(Bug::NoCallbackWait));
}

#[test]
fn release_is_called_once() {
    release_against_unregister(None);
}

#[test]
#[should_panic(expected = "released twice")]
fn planted_double_release_is_caught() {
    release_against_unregister(Some(Bug::ReleaseTwice));
}

#[test]
fn a_pair_is_never_torn() {
    registration_across_a_pair(None);
}

#[test]
#[should_panic(expected = "an end without its start")]
fn planted_end_to_the_current_list_is_caught() {
    registration_across_a_pair(Some(Bug::EndToCurrentList));
}

#[test]
#[should_panic(expected = "ausality violation")]
fn planted_early_free_is_caught() {
    registration_across_a_pair(Some(Bug::FreeAtOnce));
}

#[test]
fn a_refusal_rolls_back_exactly_who_was_told() {
    refusal(None);
}

#[test]
#[should_panic(expected = "an end to who refused")]
fn planted_end_to_the_refuser_is_caught() {
    refusal(Some(Bug::EndToRefuser));
}

#[test]
#[should_panic(expected = "left == right")] // A start without its end.
fn planted_missing_rollback_is_caught() {
    refusal(Some(Bug::NoRollback));
}
