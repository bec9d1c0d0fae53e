//! Interval notifiers: no reader keeps the translation of a freed page.

use std::sync::Arc;

use super::{Mirror, Page, model, unmap};
use crate::{
    AddressRange, Event, IntervalSubscription, Invalidation, PAGE_SIZE, Subscriptions, planted::Bug,
    sync::thread,
};

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

/// A reader makes a translation and uses it, while the page is unmapped and freed.
///
/// Bound: 2 threads, one invalidation, one attempt of the reader; 3 forced switches.
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

/// The same, of an interval that is inserted meanwhile: on an empty list, where nobody knows the invalidation's range.
///
/// Bound: 2 threads, one invalidation, one insertion, one attempt of the reader; 3 forced switches.
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

/// An insertion that sees an invalidation of the page in the slot that one of another page had before: it waits for the
/// later one, whatever range the slot still shows.
///
/// Bound: 2 threads, 2 invalidations, one insertion, one attempt of the reader; 3 forced switches.
fn insertion_behind_another_range(planted: Option<Bug>) {
    model(planted, || {
        let subscriptions = Arc::new(Subscriptions::new());
        let page = Arc::new(Page::new());
        let (other, mirror) = (Arc::new(Mirror::new(&page)), Arc::new(Mirror::new(&page)));
        // On a list that is empty no range is said.
        let elsewhere = AddressRange::new(PAGE_SIZE, PAGE_SIZE).unwrap();
        let other = subscriptions.insert(elsewhere, other).unwrap();
        let earlier = Invalidation::new(elsewhere, Event::Unmap);
        drop(subscriptions.invalidate_range_start(subscriptions.exempt(), earlier));
        let freeing = free_the_page(&subscriptions, &page);

        let subscription = insert(&subscriptions, &mirror);
        mirror.work(&subscription);

        freeing.join().unwrap();
        drop(other);
    });
}

/// A reader that comes while the page is being unmapped, and perhaps while somebody unmaps it once more.
///
/// Bound: 3 threads, 2 invalidations, one reader; 3 forced switches.
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
#[should_panic(expected = "ausality violation")]
fn planted_sequence_read_late_is_caught() {
    reader_against_invalidation(Some(Bug::SequenceReadLate));
}

#[test]
#[should_panic(expected = "ausality violation")]
fn planted_late_count_is_caught() {
    reader_against_invalidation(Some(Bug::ActiveLate));
}

#[test]
fn a_deferred_insertion_is_complete_when_what_was_in_flight_is_over() {
    insertion_during_an_invalidation(None);
}

#[test]
#[should_panic(expected = "ausality violation")]
fn planted_ignoring_what_was_in_flight_is_caught() {
    insertion_during_an_invalidation(Some(Bug::IgnorePending));
}

#[test]
fn an_insertion_is_not_misled_by_the_range_of_an_earlier_invalidation() {
    insertion_behind_another_range(None);
}

#[test]
#[should_panic(expected = "ausality violation")]
fn planted_the_range_of_another_invalidation_is_caught() {
    insertion_behind_another_range(Some(Bug::RangeOfAnother));
}
