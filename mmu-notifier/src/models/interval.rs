//! Interval notifiers: no reader keeps the translation of a freed page.
//!
//! Bound: 3 threads, 2 invalidations, one attempt of each reader to make a translation.

use std::sync::Arc;

use super::{Mirror, Page, model, unmap};
use crate::{IntervalSubscription, Subscriptions, planted::Bug, sync::thread};

fn insert(subscriptions: &Subscriptions, mirror: &Arc<Mirror>) -> IntervalSubscription {
    subscriptions.insert(unmap().range(), mirror.clone()).unwrap()
}

fn free_the_page(subscriptions: &Arc<Subscriptions>, page: &Arc<Page>) -> thread::JoinHandle<()> {
    let (subscriptions, page) = (subscriptions.clone(), page.clone());
    thread::spawn(move || {
        let guard = subscriptions.invalidate_range_start(subscriptions.exempt(), unmap());
        page.clear();
        drop(guard);
        page.free();
    })
}

fn reader_against_invalidation(planted: Option<Bug>) {
    model(planted, || {
        let subscriptions = Arc::new(Subscriptions::new());
        let page = Arc::new(Page::new());
        let mirror = Arc::new(Mirror::new(&page));
        let subscription = insert(&subscriptions, &mirror);
        let freeing = free_the_page(&subscriptions, &page);

        mirror.work(&subscription);

        freeing.join().unwrap();
    });
}

fn insertion_during_an_invalidation(planted: Option<Bug>) {
    model(planted, || {
        let subscriptions = Arc::new(Subscriptions::new());
        let page = Arc::new(Page::new());
        let mirror = Arc::new(Mirror::new(&page));
        let freeing = free_the_page(&subscriptions, &page);

        let subscription = insert(&subscriptions, &mirror);
        mirror.work(&subscription);

        freeing.join().unwrap();
    });
}

/// A reader that comes while the page is being unmapped, and perhaps while somebody unmaps it once more.
fn a_sleeping_reader(planted: Option<Bug>) {
    model(planted, || {
        let subscriptions = Arc::new(Subscriptions::new());
        let page = Arc::new(Page::new());
        let mirror = Arc::new(Mirror::new(&page));
        let subscription = Arc::new(insert(&subscriptions, &mirror));
        let guard = subscriptions.invalidate_range_start(subscriptions.exempt(), unmap());
        let reading = thread::spawn({
            let (subscription, page) = (subscription.clone(), page.clone());
            move || {
                // Whether anything was active then is loom's to vary; that it ends is what is shown.
                let _ = subscription.read_begin();
                assert!(!page.translate(), "woken before the change was done");
            }
        });
        let again = thread::spawn({
            let subscriptions = subscriptions.clone();
            move || drop(subscriptions.invalidate_range_start(subscriptions.exempt(), unmap()))
        });

        page.clear();
        drop(guard);
        page.free();

        reading.join().unwrap();
        again.join().unwrap();
    });
}

#[test]
fn a_reader_sleeps_until_the_change_is_done_and_no_longer() {
    a_sleeping_reader(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_lost_wakeup_of_a_reader_is_caught() {
    a_sleeping_reader(Some(Bug::LostReaderWakeup));
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_a_reader_that_sleeps_unmarked_is_caught() {
    a_sleeping_reader(Some(Bug::ReaderSleepsUnmarked));
}

#[test]
fn no_reader_keeps_a_freed_page() {
    reader_against_invalidation(None);
}

#[test]
#[should_panic]
fn planted_sequence_read_late_is_caught() {
    reader_against_invalidation(Some(Bug::SequenceReadLate));
}

#[test]
#[should_panic]
fn planted_late_count_is_caught() {
    reader_against_invalidation(Some(Bug::ActiveLate));
}

#[test]
fn a_deferred_insertion_is_complete_when_what_was_in_flight_is_over() {
    insertion_during_an_invalidation(None);
}

#[test]
#[should_panic]
fn planted_ignoring_what_was_in_flight_is_caught() {
    insertion_during_an_invalidation(Some(Bug::IgnorePending));
}
