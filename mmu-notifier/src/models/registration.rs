//! Registration by either engine against an invalidation that began before it, on an empty list.
//!
//! Bound: 2 threads; one invalidation, under one lock or exempt; an address space of one VMA that maps one thing.

use std::sync::Arc;

use super::{Device, Page, model, unmap};
use crate::{
    AllLocks, Engine, GracePeriod, Subscriptions, VmaLock, Witness, planted::Bug, sync::thread,
    testing::LockedVmas,
};

/// A device that registers by `engine` and works, and an invalidation that frees what the device would use.
fn registers_and_works(engine: &impl Engine, unmapping: impl FnOnce(&Subscriptions, &Page) + 'static) {
    let subscriptions = Arc::new(Subscriptions::new());
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

fn grace_period(planted: Option<Bug>) {
    model(planted, || {
        registers_and_works(&GracePeriod, |subscriptions, page| {
            unmap_under(&VmaLock::new(()).read(), subscriptions, page);
        });
    });
}

/// Against a fault, which holds only a VMA lock.
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
fn all_locks_against_reclaim(planted: Option<Bug>) {
    model(planted, || {
        let space = Arc::new(LockedVmas::own(1));
        let reclaiming = space.clone();
        registers_and_works(&AllLocks::new(&*space, None), move |subscriptions, page| {
            unmap_under(&reclaiming.vmas()[0].anon.as_ref().unwrap().read(), subscriptions, page);
        });
    });
}

#[test]
fn the_grace_period_misses_nothing() {
    grace_period(None);
}

#[test]
fn all_locks_miss_nothing() {
    all_locks(None);
}

#[test]
fn all_locks_miss_nothing_that_holds_a_reverse_map_lock() {
    all_locks_against_reclaim(None);
}

/// The lock that the invalidation holds is not one of the space that is locked: it says so.
#[test]
fn all_locks_wait_for_what_is_exempt() {
    model(None, || {
        registers_and_works(&AllLocks::new(&LockedVmas::own(1), None), |subscriptions, page| {
            unmap_under(subscriptions.exempt(), subscriptions, page);
        });
    });
}

macro_rules! caught {
    ($($name:ident: $model:ident($bug:ident);)*) => {$(
        #[test]
        #[should_panic]
        fn $name() {
            $model(Some(Bug::$bug));
        }
    )*};
}

caught! {
    planted_mark_without_fence_is_caught: grace_period(MarkWithoutFence);
    planted_reading_before_the_mark_is_caught: grace_period(ReadBeforeMark);
    planted_scanning_before_publishing_is_caught: grace_period(ScanBeforePublish);
    planted_missing_grace_period_is_caught: grace_period(NoGracePeriod);
    planted_lost_wakeup_is_caught: grace_period(LostWakeup);
    planted_missing_locks_are_caught: all_locks(NoLocks);
    planted_skipping_the_vma_locks_is_caught: all_locks(SkipVmaLocks);
    planted_skipping_the_rmap_locks_is_caught: all_locks_against_reclaim(SkipRmapLocks);
    planted_sequence_of_a_gate_is_caught: grace_period(GateKeepsSequence);
}
