//! Registration by either engine against an invalidation that began before it.

use std::sync::Arc;

use super::{Device, Page, model, unmap};
use crate::{
    AllLocks, Engine, GracePeriod, Subscriber, Subscriptions, VmaLock, Witness,
    planted::Bug,
    sync::thread,
    testing::{LockedVmas, Refuser},
};

/// A device that registers by `engine` on an empty list and works, and an invalidation that frees what the device would
/// use.
fn registers_and_works(engine: &impl Engine, unmapping: impl FnOnce(&Subscriptions, &Page) + 'static) {
    registers_behind(&[], engine, unmapping);
}

/// The same, where `others` are registered already.
fn registers_behind(
    others: &[Arc<dyn Subscriber>],
    engine: &impl Engine,
    unmapping: impl FnOnce(&Subscriptions, &Page) + 'static,
) {
    let subscriptions = Arc::new(Subscriptions::new());
    for other in others {
        subscriptions.register(other.clone()).unwrap();
    }
    let page = Arc::new(Page::new());
    let invalidating = thread::spawn({
        let (subscriptions, page) = (subscriptions.clone(), page.clone());
        move || {
            unmapping(&subscriptions, &page);
            page.free();
        }
    });
    let device = Arc::new(Device::new(&page));
    subscriptions.register_by(engine, device.clone()).unwrap();
    device.work();
    invalidating.join().unwrap();
}

fn unmap_under(witness: &impl Witness, subscriptions: &Subscriptions, page: &Page) {
    let guard = subscriptions.invalidate_range_start(witness, unmap());
    page.clear();
    drop(guard);
}

/// Against an invalidation whose lock says nothing.
///
/// Bound: 2 threads, one invalidation, one attempt of the device to make a translation; 3 forced switches.
fn grace_period(planted: Option<Bug>) {
    model(planted, || {
        registers_and_works(&GracePeriod, |subscriptions, page| {
            unmap_under(&VmaLock::new(()).read(), subscriptions, page);
        });
    });
}

/// The same, where somebody is told of the invalidation that the device must wait for.
///
/// Bound: 2 threads, one invalidation, 2 subscribers, one attempt of the device; 3 forced switches.
fn grace_period_behind_another(planted: Option<Bug>) {
    model(planted, || {
        registers_behind(&[Arc::new(Refuser::new("other"))], &GracePeriod, |subscriptions, page| {
            unmap_under(&VmaLock::new(()).read(), subscriptions, page);
        });
    });
}

/// All locks, where somebody is told of the fault that they wait for.
///
/// Bound: as behind another; an address space of one VMA that maps one thing.
fn all_locks_behind_another(planted: Option<Bug>) {
    model(planted, || {
        let space = Arc::new(LockedVmas::own(1));
        let faulting = space.clone();
        let engine = AllLocks::new(&*space, None);
        registers_behind(&[Arc::new(Refuser::new("other"))], &engine, move |subscriptions, page| {
            unmap_under(&faulting.vmas()[0].lock.read(), subscriptions, page);
        });
    });
}

/// Against a fault, which holds only a VMA lock.
///
/// Bound: as for the grace period; an address space of one VMA that maps one thing.
fn all_locks(planted: Option<Bug>) {
    model(planted, || {
        let space = Arc::new(LockedVmas::own(1));
        let faulting = space.clone();
        registers_and_works(&AllLocks::new(&*space, None), move |subscriptions, page| {
            unmap_under(&faulting.vmas()[0].lock.read(), subscriptions, page);
        });
    });
}

/// Against reclaim, which holds only a reverse-map lock.
///
/// Bound: as against a fault.
fn all_locks_against_reclaim(planted: Option<Bug>) {
    model(planted, || {
        let space = Arc::new(LockedVmas::own(1));
        let reclaiming = space.clone();
        registers_and_works(&AllLocks::new(&*space, None), move |subscriptions, page| {
            unmap_under(&reclaiming.vmas()[0].anon.as_ref().unwrap().read(), subscriptions, page);
        });
    });
}

/// Against an invalidation that holds no lock of the space, and says so.
///
/// Bound: as against a fault.
fn all_locks_against_the_exempt(planted: Option<Bug>) {
    model(planted, || {
        registers_and_works(&AllLocks::new(&LockedVmas::own(1), None), |subscriptions, page| {
            unmap_under(subscriptions.exempt(), subscriptions, page);
        });
    });
}

#[test]
fn the_grace_period_misses_nothing() {
    grace_period(None);
}

#[test]
fn the_grace_period_misses_nothing_that_others_were_told_of() {
    grace_period_behind_another(None);
}

#[test]
fn all_locks_miss_nothing_that_others_were_told_of() {
    all_locks_behind_another(None);
}

#[test]
fn all_locks_miss_nothing() {
    all_locks(None);
}

#[test]
fn all_locks_miss_nothing_that_holds_a_reverse_map_lock() {
    all_locks_against_reclaim(None);
}

#[test]
fn all_locks_wait_for_what_is_exempt() {
    all_locks_against_the_exempt(None);
}

macro_rules! caught {
    ($($name:ident: $model:ident($bug:ident), $words:literal;)*) => {$(
        #[test]
        #[should_panic(expected = $words)]
        fn $name() {
            $model(Some(Bug::$bug));
        }
    )*};
}

caught! {
    planted_mark_without_fence_is_caught: grace_period(MarkWithoutFence), "ausality violation";
    planted_reading_before_the_mark_is_caught: grace_period(ReadBeforeMark), "ausality violation";
    planted_scanning_before_publishing_is_caught: grace_period(ScanBeforePublish), "ausality violation";
    planted_missing_grace_period_is_caught: grace_period(NoGracePeriod), "ausality violation";
    planted_lost_wakeup_is_caught: grace_period(LostWakeup), "deadlock";
    planted_missing_grace_period_behind_another_is_caught:
        grace_period_behind_another(NoGracePeriod), "ausality violation";
    planted_missing_locks_are_caught: all_locks(NoLocks), "ausality violation";
    planted_missing_locks_behind_another_are_caught: all_locks_behind_another(NoLocks), "ausality violation";
    planted_skipping_the_vma_locks_is_caught: all_locks(SkipVmaLocks), "ausality violation";
    planted_skipping_the_rmap_locks_is_caught: all_locks_against_reclaim(SkipRmapLocks), "ausality violation";
    planted_sequence_of_a_gate_is_caught: grace_period(GateKeepsSequence), "ausality violation";
    planted_ignoring_what_is_in_progress_is_caught: grace_period(GateIgnoresProgress), "ausality violation";
    planted_ignoring_the_exempt_is_caught: all_locks_against_the_exempt(IgnoreExempt), "ausality violation";
}
