//! The folio lock and the end of a fill. loom reports a deadlock, so "nobody sleeps for ever" is part of each.

use std::sync::Arc;

use mmu_notifier::sync::thread;

use super::{Bug, Content, PREEMPTIONS, explore, model};
use crate::{PageSize, folio::FrameTable};

/// The folio is filled by one thread, and others wait for that. The first to get the lock fills.
fn fill(waiters: usize, preemptions: usize, planted: Option<Bug>) {
    explore(preemptions, planted, move || {
        let frame = Arc::new((FrameTable::new(512), Content::new()));
        frame.0.claim(0, PageSize::Base).unwrap().unfreeze(1).leak();
        let one = |(table, content): &(FrameTable, Content)| {
            let folio = table.try_get(0, PageSize::Base).unwrap();
            let guard = folio.lock();
            if folio.is_uptodate() {
                drop(guard);
            } else {
                content.overwrite();
                guard.end_fill();
            }
            content.use_it();
        };
        let waiting = |_| {
            let frame = frame.clone();
            thread::spawn(move || one(&frame))
        };
        let waiters: Vec<_> = (0..waiters).map(waiting).collect();
        one(&frame);
        for waiter in waiters {
            waiter.join().unwrap();
        }
        let folio = frame.0.try_get(0, PageSize::Base).unwrap();
        assert!(folio.is_uptodate());
        assert!(folio.try_lock().is_some(), "left free");
    });
}

#[test]
fn one_fills_and_the_other_sees_it() {
    fill(1, PREEMPTIONS, None);
}

#[test]
fn one_fills_and_both_others_see_it() {
    fill(2, 2, None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_sleeping_unmarked_is_caught() {
    fill(1, PREEMPTIONS, Some(Bug::SleepUnmarked));
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_looking_for_waiters_before_unlocking_is_caught() {
    fill(1, PREEMPTIONS, Some(Bug::LookThenUnlock));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_a_relaxed_end_of_fill_is_caught() {
    fill(1, PREEMPTIONS, Some(Bug::RelaxedEndFill));
}

/// A fill fails, and its waiter takes over.
#[test]
fn a_fill_that_fails_is_taken_over() {
    model(None, || {
        let table = Arc::new(FrameTable::new(512));
        table.claim(0, PageSize::Base).unwrap().unfreeze(1).leak();
        let next = thread::spawn({
            let table = table.clone();
            move || table.try_get(0, PageSize::Base).unwrap().lock().end_fill()
        });
        drop(table.try_get(0, PageSize::Base).unwrap().lock());
        next.join().unwrap();
        assert!(table.borrow(0, PageSize::Base).unwrap().is_uptodate());
    });
}

/// Whoever sees that the content is in may use it, lock or not.
fn look(planted: Option<Bug>) {
    model(planted, || {
        let frame = Arc::new((FrameTable::new(512), Content::new()));
        frame.0.claim(0, PageSize::Base).unwrap().unfreeze(1).leak();
        let reader = thread::spawn({
            let frame = frame.clone();
            move || {
                let folio = frame.0.try_get(0, PageSize::Base).unwrap();
                if folio.is_uptodate() {
                    frame.1.use_it();
                }
            }
        });
        let folio = frame.0.try_get(0, PageSize::Base).unwrap();
        let guard = folio.lock();
        frame.1.overwrite();
        guard.end_fill();
        reader.join().unwrap();
    });
}

#[test]
fn content_that_is_in_may_be_used_without_the_lock() {
    look(None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_a_relaxed_end_of_fill_is_caught_without_the_lock() {
    look(Some(Bug::RelaxedEndFill));
}
