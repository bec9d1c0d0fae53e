//! loom models of [`take_all_locks`].

use super::{LockedSpace, take_all_locks};
use crate::{
    InterruptToken, RmapLock,
    models::explore,
    planted::Bug,
    sync::{Arc, thread},
    testing::{LockedVma, LockedVmas},
};
use loom::cell::UnsafeCell;

/// The bound on forced switches.
const PREEMPTIONS: usize = 5;

#[track_caller]
fn model(planted: Option<Bug>, f: impl Fn() + Sync + Send + 'static) {
    explore(PREEMPTIONS, planted, f);
}

fn mapping() -> Arc<RmapLock> {
    Arc::new(RmapLock::new(()))
}

/// A VMA that maps one thing, or two.
fn vma(anon: &Arc<RmapLock>, file: Option<&Arc<RmapLock>>) -> LockedVma {
    LockedVma { anon: Some(Arc::clone(anon)), file: file.cloned(), ..LockedVma::default() }
}

/// What an operation is in the middle of: loom reports anybody who looks meanwhile.
#[derive(Default)]
struct InFlight(UnsafeCell<u32>);

impl InFlight {
    #[expect(unsafe_code, reason = "the cell is loom's, to be raced for")]
    fn work(&self) {
        // SAFETY: loom stops the model if anybody else accesses the cell meanwhile.
        self.0.with_mut(|done| unsafe { *done += 1 });
    }
}

/// One VMA that maps one thing. A fault holds only the VMA lock, reclaim only the reverse-map lock.
///
/// Bound: 3 threads, one operation each; 5 forced switches.
fn a_fault_and_reclaim(planted: Option<Bug>) {
    model(planted, || {
        let mapping = mapping();
        let space = Arc::new(LockedVmas::from_iter([vma(&mapping, None)]));
        let (faulting, reclaiming) = (Arc::new(InFlight::default()), Arc::new(InFlight::default()));
        let fault = thread::spawn({
            let (space, faulting) = (Arc::clone(&space), Arc::clone(&faulting));
            move || {
                let _vma = space.vmas()[0].lock.read();
                faulting.work();
            }
        });
        let reclaim = thread::spawn({
            let (mapping, reclaiming) = (Arc::clone(&mapping), Arc::clone(&reclaiming));
            move || {
                let _mapping = mapping.read();
                reclaiming.work();
            }
        });
        {
            let mmap = space.mmap_lock().write();
            let _all = take_all_locks(&mmap, &*space, None).unwrap();
            faulting.work();
            reclaiming.work();
        }
        fault.join().unwrap();
        reclaim.join().unwrap();
        assert!(space.is_free());
    });
}

#[test]
fn nothing_is_in_flight_while_all_locks_are_held() {
    a_fault_and_reclaim(None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_skipping_the_vma_locks_is_caught() {
    a_fault_and_reclaim(Some(Bug::SkipVmaLocks));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_skipping_the_rmap_locks_is_caught() {
    a_fault_and_reclaim(Some(Bug::SkipRmapLocks));
}

/// Two owners map the same two things in opposite order, and one of them twice.
///
/// Bound: 3 threads, 2 owners of 2 VMAs, 2 mappings; 5 forced switches.
fn two_owners_that_share_mappings(planted: Option<Bug>) {
    model(planted, || {
        let (a, b) = (mapping(), mapping());
        let work = Arc::new(InFlight::default());
        let spaces = [
            LockedVmas::from_iter([vma(&a, None), vma(&a, Some(&b))]),
            LockedVmas::from_iter([vma(&b, None), vma(&a, None)]),
        ];
        let takers = spaces.map(|space| {
            let work = Arc::clone(&work);
            thread::spawn(move || {
                {
                    let mmap = space.mmap_lock().write();
                    let all = take_all_locks(&mmap, &space, None).unwrap();
                    assert_eq!(all.locks(), 4);
                    work.work();
                }
                space
            })
        });
        let spaces = takers.map(|taker| taker.join().unwrap());
        assert!(spaces.iter().all(LockedVmas::is_free));
    });
}

#[test]
fn two_takers_that_share_mappings_take_turns() {
    two_owners_that_share_mappings(None);
}

#[test]
#[should_panic(expected = "left == right")] // One takes the other's marks for its own.
fn planted_no_all_locks_is_caught() {
    two_owners_that_share_mappings(Some(Bug::NoAllLocks));
}

/// Somebody holds the lock of the second mapping for a while; the taker is interrupted at any moment.
///
/// Bound: 3 threads, 2 VMAs, 2 mappings, one interruption; 5 forced switches.
fn an_interruption(planted: Option<Bug>) {
    model(planted, || {
        let (a, b) = (mapping(), mapping());
        let space = LockedVmas::from_iter([vma(&a, None), vma(&b, Some(&a))]);
        let token = Arc::new(InterruptToken::new());
        let reclaiming = Arc::new(InFlight::default());
        let reclaim = thread::spawn({
            let (b, reclaiming) = (Arc::clone(&b), Arc::clone(&reclaiming));
            move || {
                let _mapping = b.write();
                reclaiming.work();
            }
        });
        let signal = thread::spawn({
            let token = Arc::clone(&token);
            move || token.interrupt()
        });
        {
            let mmap = space.mmap_lock().write();
            if let Ok(all) = take_all_locks(&mmap, &space, Some(&token)) {
                assert_eq!(all.locks(), 4);
                reclaiming.work();
            } else {
                // Somebody else's lock is still theirs.
                let _mapping = b.write();
                reclaiming.work();
            }
        }
        signal.join().unwrap();
        reclaim.join().unwrap();
        assert!(space.is_free());
    });
}

#[test]
fn an_interruption_releases_exactly_what_was_taken() {
    an_interruption(None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_a_mark_before_the_lock_is_caught() {
    an_interruption(Some(Bug::MarkBeforeLock));
}
