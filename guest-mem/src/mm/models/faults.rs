//! Faults against faults in one 2 MiB range.

use super::*;
use crate::{mm::FillWatch, vma::VmaChange};

/// A fault at each of `pages` on a thread of its own, and nobody is left asleep.
fn two_faults(planted: Option<Bug>, guest: fn() -> Arc<Guest>, pages: [Gfn; 2], huge: u64, base: u64) {
    explore(PREEMPTIONS, planted, move || {
        let guest = guest();
        let other = spawn(&guest, move |guest| guest.access(pages[1]));
        guest.access(pages[0]);
        other.join().unwrap();

        let mapped = guest.mm.table.mapped();
        assert_eq!((mapped.huge, mapped.base), (huge, base), "not what the policy says");
        guest.check_and_end();
    });
}

fn on_one_page(planted: Option<Bug>) {
    two_faults(planted, Guest::of_base_pages, [PAGES[0], PAGES[0]], 0, 1);
}

#[test]
fn of_two_faults_on_one_page_one_maps_it() {
    on_one_page(None);
}

#[test]
#[should_panic(expected = "Taken")]
fn planted_looking_before_the_lock_is_caught() {
    on_one_page(Some(Bug::LookBeforeLock));
}

#[test]
fn two_faults_on_two_pages_map_both() {
    two_faults(None, Guest::of_base_pages, PAGES, 0, 2);
}

fn filled(planted: Option<Bug>) {
    two_faults(planted, Guest::of_filled_pages, [PAGES[0], PAGES[0]], 0, 1);
}

#[test]
fn of_two_fills_of_one_page_one_maps_it() {
    filled(None);
}

#[test]
#[should_panic(expected = "Taken")]
fn planted_filling_without_a_look_is_caught() {
    filled(Some(Bug::FillUnlooked));
}

/// A fill is given up, or is not, while its filler runs; whoever faults next fills the page.
fn given_up(planted: Option<Bug>) {
    explore(PREEMPTIONS, planted, || {
        let guest = Guest::of_filled_pages();
        let watch = Arc::new(FillWatch::default());
        let watched = Arc::clone(&watch);
        let stalled = spawn(&guest, move |guest| guest.access_by(PAGES[0], Scratch::watched(watched)));
        // A supervisor that takes every filler for one that stalls.
        if let Some(fill) = watch.running() {
            guest.mm.give_up_fill(fill.ticket);
        }
        guest.access(PAGES[0]);
        guest.use_page(PAGES[0]);
        stalled.join().unwrap();

        guest.check_and_end();
    });
}

#[test]
fn a_fill_that_was_given_up_writes_nothing_that_the_guest_sees() {
    given_up(None);
}

#[test]
#[should_panic(expected = "Taken")]
fn planted_taking_what_a_late_filler_returns_is_caught() {
    given_up(Some(Bug::LateFill));
}

fn huge(planted: Option<Bug>) {
    two_faults(planted, Guest::of_a_huge_page, PAGES, 1, 0);
}

#[test]
fn of_two_faults_in_one_huge_page_one_maps_it() {
    huge(None);
}

#[test]
#[should_panic(expected = "not what the policy says")]
fn planted_exposing_a_table_before_huge_was_tried_is_caught() {
    huge(Some(Bug::TableFirst));
}

/// A fault that wants a huge page, and one that wants a base page since the policy has just changed.
#[test]
fn of_a_huge_and_a_base_fault_one_wins_and_the_other_finds_it() {
    explore(PREEMPTIONS, None, || {
        let guest = Guest::of_a_huge_page();
        let huge = spawn(&guest, |guest| guest.access(PAGES[0]));
        guest.mm.modify(guest.mm.range, &VmaChange::Huge(HugePolicy::Never)).unwrap();
        guest.access(PAGES[1]);
        huge.join().unwrap();

        let mapped = guest.mm.table.mapped();
        assert!(matches!((mapped.huge, mapped.base), (1, 0) | (0, 2)), "{mapped:?}");
        guest.check_and_end();
    });
}
