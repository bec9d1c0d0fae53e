//! Readers of mapcounts against everything that changes them.

use std::sync::Arc;

use mmu_notifier::sync::thread;

use super::{super::PAGES, Bug, model};
use crate::folio::mapcount::Mapcount;

/// What a reader asks.
type Read = fn(&Mapcount) -> u32;

const PAGE: Read = |counts| counts.page(0);
const TOTAL: Read = Mapcount::total;
const LARGEST: Read = Mapcount::largest;

/// Reads twice while each of `writers` goes on in a thread of its own, and hands both to `check`.
#[track_caller]
fn reading(
    planted: Option<Bug>,
    read: Read,
    begin: fn(&Mapcount),
    writers: &'static [fn(&Mapcount)],
    check: fn(u32, u32),
) {
    model(planted, move || {
        let counts = Arc::new(Mapcount::default());
        // The pages are made here: loom does not see what orders that.
        counts.map_page(0);
        counts.unmap_page(0);
        begin(&counts);
        let writing = |write: &'static fn(&Mapcount)| {
            let counts = counts.clone();
            thread::spawn(move || write(&counts))
        };
        let writers: Vec<_> = writers.iter().map(writing).collect();
        let (first, second) = (read(&counts), read(&counts));
        check(first, second);
        for writer in writers {
            writer.join().unwrap();
        }
    });
}

/// One VM maps the folio huge, another its page 0.
fn both(counts: &Mapcount) {
    counts.map_huge();
    counts.map_page(0);
}

/// The huge mapping is split.
#[track_caller]
fn split(planted: Option<Bug>, read: Read, check: fn(u32, u32)) {
    reading(planted, read, both, &[Mapcount::split], check);
}

/// No reader sees a split in a page's mapcount, nor in the largest.
fn always_two(first: u32, second: u32) {
    assert_eq!((first, second), (2, 2), "never true");
}

/// The total goes up once, by one less than the pages, and never down.
fn up_once(first: u32, second: u32) {
    let (before, after) = (2, 1 + u32::try_from(PAGES).unwrap());
    assert!(
        [(before, before), (before, after), (after, after)].contains(&(first, second)),
        "never true: {first}, then {second}"
    );
}

#[test]
fn a_split_does_not_change_a_pages_mapcount() {
    split(None, PAGE, always_two);
}

#[test]
fn a_split_does_not_change_the_largest_mapcount() {
    split(None, LARGEST, always_two);
}

#[test]
fn a_split_raises_the_total_in_one_step() {
    split(None, TOTAL, up_once);
}

#[test]
#[should_panic(expected = "never true")]
fn planted_a_split_that_counts_pages_first_is_caught_at_a_page() {
    split(Some(Bug::SplitPagesFirst), PAGE, always_two);
}

#[test]
#[should_panic(expected = "never true")]
fn planted_a_split_that_drops_the_huge_mapping_first_is_caught_at_a_page() {
    split(Some(Bug::SplitHugeFirst), PAGE, always_two);
}

#[test]
#[should_panic(expected = "never true")]
fn planted_a_split_that_counts_pages_first_is_caught_at_the_largest() {
    split(Some(Bug::SplitPagesFirst), LARGEST, always_two);
}

#[test]
#[should_panic(expected = "never true")]
fn planted_a_split_that_drops_the_huge_mapping_first_is_caught_in_the_total() {
    split(Some(Bug::SplitHugeFirst), TOTAL, up_once);
}

#[test]
#[should_panic(expected = "never true")]
fn planted_a_single_look_at_the_sequence_count_is_caught_by_a_split() {
    split(Some(Bug::ReadOnce), PAGE, always_two);
}

/// Three VMs map the folio huge. All split, two of them one after the other and reading in between.
#[track_caller]
fn splits(planted: Option<Bug>) {
    let begin = |counts: &Mapcount| (0..3).for_each(|_| counts.map_huge());
    let split_and_read = |counts: &Mapcount| {
        counts.split();
        counts.page(0)
    };
    reading(planted, split_and_read, begin, &[Mapcount::split], |first, second| {
        assert_eq!((first, second), (3, 3), "never true");
    });
}

#[test]
fn splits_exclude_each_other() {
    splits(None);
}

// What the first leaves behind, the second takes for a split that is under way, and no reader ever returns.
#[test]
#[should_panic(expected = "maximum number of branches")]
fn planted_two_splits_at_a_time_are_caught() {
    splits(Some(Bug::SplitWithoutLock));
}

/// Both mappings go, each in a thread of its own.
#[track_caller]
fn unmap(planted: Option<Bug>, read: Read) {
    fn page(counts: &Mapcount) {
        counts.unmap_page(0);
    }
    reading(planted, read, both, &[Mapcount::unmap_huge, page], |first, second| {
        assert!(2 >= first && first >= second, "never true: {first}, then {second}");
    });
}

#[test]
fn a_pages_mapcount_never_rises_while_mappings_go() {
    unmap(None, PAGE);
}

#[test]
fn the_total_never_rises_while_mappings_go() {
    unmap(None, TOTAL);
}

#[test]
fn the_largest_never_rises_while_mappings_go() {
    unmap(None, LARGEST);
}

#[test]
#[should_panic(expected = "never true")]
fn planted_unmapping_by_way_of_pieces_is_caught_in_the_total() {
    unmap(Some(Bug::UnmapByPieces), TOTAL);
}

/// The one huge mapping is split, and the pages are unmapped: down to nothing, without a stop at a wrong count.
#[test]
fn a_split_before_unmapping_stays_one_way() {
    fn split_and_unmap(counts: &Mapcount) {
        counts.split();
        (0..PAGES).for_each(|page| counts.unmap_page(page));
    }
    reading(None, PAGE, Mapcount::map_huge, &[split_and_unmap], |first, second| {
        assert!(1 >= first && first >= second, "never true: {first}, then {second}");
    });
    reading(None, LARGEST, Mapcount::map_huge, &[split_and_unmap], |first, second| {
        assert!(1 >= first && first >= second, "never true: {first}, then {second}");
    });
}

/// A huge mapping comes before the page's own goes: the page is never seen unmapped, nor mapped three times.
#[track_caller]
fn page_to_huge(planted: Option<Bug>, read: Read) {
    fn exchange(counts: &Mapcount) {
        counts.map_huge();
        counts.unmap_page(0);
    }
    reading(
        planted,
        read,
        |counts| counts.map_page(0),
        &[exchange],
        |first, second| {
            assert!(
                (1..=2).contains(&first) && (1..=2).contains(&second),
                "never true: {first}, then {second}"
            );
        },
    );
}

#[test]
fn a_page_that_becomes_huge_is_never_seen_unmapped() {
    page_to_huge(None, PAGE);
    page_to_huge(None, TOTAL);
    page_to_huge(None, LARGEST);
}

#[test]
#[should_panic(expected = "never true")]
fn planted_a_single_look_at_the_sequence_count_is_caught_by_a_huge_mapping() {
    page_to_huge(Some(Bug::ReadOnce), PAGE);
}

/// The huge mapping goes, page 0 is mapped and unmapped, and the huge mapping comes back.
#[track_caller]
fn there_and_back(planted: Option<Bug>, read: Read) {
    fn cycle(counts: &Mapcount) {
        counts.unmap_huge();
        counts.map_page(0);
        counts.unmap_page(0);
        counts.map_huge();
    }
    reading(planted, read, Mapcount::map_huge, &[cycle], |first, second| {
        assert!(first <= 1 && second <= 1, "never true: {first}, then {second}");
    });
}

#[test]
fn a_huge_mapping_that_comes_back_is_noticed() {
    there_and_back(None, PAGE);
    there_and_back(None, TOTAL);
    there_and_back(None, LARGEST);
}

#[test]
#[should_panic(expected = "never true")]
fn planted_a_huge_mapping_that_keeps_the_sequence_count_is_caught() {
    there_and_back(Some(Bug::HugeKeepsSequence), PAGE);
}
