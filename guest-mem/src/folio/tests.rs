//! What the handles do, one thread at a time and several, and both against naive models.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread,
};

use proptest::prelude::*;

use super::*;
use crate::frame::{BLOCK_PAGES, PageSize};

const FRAMES: u64 = 4 * BLOCK_PAGES;

/// Runs `here` once each of `others` has begun in a thread of its own, and joins those.
fn beside<F: Fn() + Sync>(others: &[F], here: impl FnOnce()) {
    let start = &Barrier::new(others.len() + 1);
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for other in others {
            threads.push(scope.spawn(move || {
                start.wait();
                other();
            }));
        }
        start.wait();
        here();
        // ThreadSanitizer sees this, and not how a scope waits for its threads.
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_frame_that_was_never_claimed_has_no_references() {
    let table = FrameTable::new(FRAMES);

    assert!(table.try_get(7, PageSize::Base).is_none());
    assert!(table.borrow(7, PageSize::Huge).is_none());
    assert!(table.try_get(FRAMES, PageSize::Base).is_none());
}

#[test]
fn a_frame_beyond_the_table_cannot_be_claimed() {
    let table = FrameTable::new(BLOCK_PAGES + 1);

    let whole = table.claim(BLOCK_PAGES, PageSize::Huge).unwrap_err();
    let beyond = table.claim(BLOCK_PAGES + 1, PageSize::Base).unwrap_err();

    assert_eq!(whole, ClaimError::OutOfRange { index: BLOCK_PAGES, frames: BLOCK_PAGES + 1 });
    assert!(matches!(beyond, ClaimError::OutOfRange { .. }));
    assert!(table.claim(BLOCK_PAGES, PageSize::Base).is_ok());
}

#[test]
fn an_exclusive_folio_cannot_be_got_until_it_is_unfrozen() {
    let table = FrameTable::new(FRAMES);

    let exclusive = table.claim(5, PageSize::Base).unwrap();
    assert!(table.try_get(5, PageSize::Base).is_none());
    let folio = exclusive.unfreeze(1);

    assert_eq!(table.try_get(5, PageSize::Base).unwrap().index(), 5);
    assert_eq!(folio.references(), 1);
}

#[test]
fn a_pinned_folio_cannot_be_frozen() {
    let table = FrameTable::new(FRAMES);
    let folio = table.claim(0, PageSize::Huge).unwrap().unfreeze(1);
    folio.map_huge();
    let pin = table.try_get(3, PageSize::Huge).unwrap();

    let folio = folio.freeze(1).unwrap_err();
    drop(pin);
    let exclusive = folio.freeze(1).unwrap();

    assert!(table.try_get(0, PageSize::Huge).is_none());
    exclusive.unmap_huge();
}

#[test]
fn a_block_is_used_in_one_size_at_a_time() {
    let table = FrameTable::new(FRAMES);

    let base = table.claim(9, PageSize::Base).unwrap();
    assert_eq!(table.claim(0, PageSize::Huge).unwrap_err(), ClaimError::InUse(0));
    assert_eq!(table.claim(9, PageSize::Base).unwrap_err(), ClaimError::InUse(9));
    base.free();
    let huge = table.claim(9, PageSize::Huge).unwrap();

    assert_eq!((huge.index(), huge.size()), (0, PageSize::Huge));
    assert_eq!(table.claim(9, PageSize::Base).unwrap_err(), ClaimError::InUse(9));
}

#[test]
fn the_last_reference_goes_to_the_release() {
    let released = Arc::new(AtomicU32::new(0));
    let table = FrameTable::with_release(FRAMES, {
        let released = released.clone();
        move |folio| {
            released.fetch_add(1, Relaxed);
            folio.free();
        }
    });
    let folio = table.claim(1, PageSize::Base).unwrap().unfreeze(1);
    let again = folio.clone();

    drop(folio);
    assert_eq!(released.load(Relaxed), 0);
    drop(again);

    assert_eq!(released.load(Relaxed), 1);
    assert!(table.claim(1, PageSize::Base).is_ok(), "free again");
}

#[test]
fn whoever_puts_the_last_reference_may_keep_the_folio() {
    let table = FrameTable::with_release(FRAMES, |_| unreachable!("nothing was dropped"));
    let folio = table.claim(1, PageSize::Base).unwrap().unfreeze(3).leak();

    assert!(folio.put_many(2).is_none());
    let exclusive = folio.adopt().put().unwrap();

    assert_eq!(exclusive.references(), 0);
}

#[test]
fn content_is_in_until_the_folio_is_free() {
    let table = FrameTable::new(FRAMES);
    let exclusive = table.claim(1, PageSize::Base).unwrap();
    assert!(!exclusive.is_uptodate());

    exclusive.set_uptodate();
    let folio = exclusive.unfreeze(1);
    assert!(folio.is_uptodate());
    drop(folio);

    assert!(!table.claim(1, PageSize::Base).unwrap().is_uptodate());
}

#[test]
fn the_end_of_a_fill_unlocks_and_finds_nobody_waiting() {
    let table = FrameTable::new(FRAMES);
    let folio = table.claim(1, PageSize::Base).unwrap().unfreeze(1);

    let guard = folio.lock();
    assert!(folio.try_lock().is_none());
    let waited = guard.end_fill();

    assert!(!waited);
    assert!(folio.is_uptodate());
    drop(folio.try_lock().unwrap());
    assert!(folio.is_uptodate(), "unlocking changes nothing");
}

#[cfg(debug_assertions)]
#[test]
#[should_panic(expected = "folio lock (rank 4000) is taken while folio lock (rank 4000) is held")]
fn two_folio_locks_are_an_inversion() {
    let table = FrameTable::new(FRAMES);
    let a = table.claim(1, PageSize::Base).unwrap().unfreeze(1);
    let b = table.claim(2, PageSize::Base).unwrap().unfreeze(1);

    let _a = a.lock();
    let _b = b.lock();
}

#[test]
fn metadata_is_made_where_frames_are_claimed() {
    let table = FrameTable::new((1 << 40) / 4096);
    let empty = table.metadata_bytes();

    drop(table.claim(1 << 27, PageSize::Huge));
    let huge = table.metadata_bytes();
    drop(table.claim(1 << 27, PageSize::Base));
    let base = table.metadata_bytes();

    assert!(empty <= 128 << 10, "{empty} bytes for 1 TiB");
    assert_eq!(huge - empty, 4096, "of 64 blocks");
    assert_eq!(base - huge, 512 * 16);
}

#[test]
fn neighbouring_blocks_share_no_cache_line() {
    let table = FrameTable::new(FRAMES);
    let folios = [0, BLOCK_PAGES].map(|index| table.claim(index, PageSize::Huge).unwrap().unfreeze(1));

    let lines = folios.each_ref().map(|folio| std::ptr::from_ref(folio.head()).addr() / 64);

    assert_ne!(lines[0], lines[1]);
}

#[test]
fn threads_that_fill_and_wait_never_meet_under_the_lock() {
    let table = FrameTable::new(FRAMES);
    let folio = table.claim(0, PageSize::Huge).unwrap().unfreeze(1);
    let inside = AtomicBool::new(false);

    let fill = || {
        for round in 0..2000 {
            let guard = folio.lock();
            assert!(!inside.swap(true, Relaxed));
            inside.store(false, Relaxed);
            if round % 2 == 0 {
                drop(guard);
            } else {
                guard.end_fill();
            }
        }
    };
    beside(&[fill; 3], fill);

    assert!(folio.try_lock().is_some());
}

#[test]
fn references_that_race_with_freezing_all_come_back() {
    let table = FrameTable::new(FRAMES);
    table.claim(3, PageSize::Base).unwrap().unfreeze(1).leak();
    let entry = table.borrow(3, PageSize::Base).unwrap();
    let frozen = AtomicBool::new(false);

    let get = || {
        for _ in 0..20_000 {
            if let Some(folio) = table.try_get(3, PageSize::Base) {
                assert!(!frozen.load(Relaxed), "a reference to an exclusive folio");
                drop(folio);
            }
        }
    };
    beside(&[get; 3], || {
        for _ in 0..20_000 {
            if let Ok(exclusive) = entry.adopt().freeze(1).map_err(FolioRef::leak) {
                frozen.store(true, Relaxed);
                frozen.store(false, Relaxed);
                exclusive.unfreeze(1).leak();
            }
        }
    });

    assert_eq!(entry.references(), 1);
}

#[test]
fn readers_of_mapcounts_never_see_a_split_nor_a_count_that_rises_while_mappings_go() {
    let table = FrameTable::new(FRAMES);
    let folio = table.claim(0, PageSize::Huge).unwrap().unfreeze(1);
    let done = AtomicBool::new(false);

    for _ in 0..20 {
        (0..2).for_each(|_| folio.map_huge());
        done.store(false, Relaxed);
        let read = || {
            let (mut page, mut largest) = (2, 2);
            while !done.load(Relaxed) {
                let (now, most) = (folio.mapcount(511), folio.largest_mapcount());
                assert!(now <= page && most <= largest, "{page} {now}, {largest} {most}");
                (page, largest) = (now, most);
            }
        };
        // Two mappings, of which one is split.
        beside(&[read], || {
            folio.split_mapping();
            folio.unmap_huge();
            (0..512).for_each(|page| folio.unmap_page(page));
            done.store(true, Relaxed);
        });
        assert_eq!(folio.total_mapcount(), 0);
    }
}

/// A change of a huge folio's mappings.
#[derive(Clone, Debug)]
enum Change {
    MapHuge,
    UnmapHuge,
    MapPage(usize),
    UnmapPage(usize),
    Split,
}

fn change() -> impl Strategy<Value = Change> {
    // Few pages, so that they meet.
    let page = prop_oneof![0..4_usize, 508..512_usize];
    prop_oneof![
        Just(Change::MapHuge),
        Just(Change::UnmapHuge),
        page.clone().prop_map(Change::MapPage),
        page.prop_map(Change::UnmapPage),
        Just(Change::Split),
    ]
}

proptest! {
    #[test]
    fn mapcounts_agree_with_a_list_of_mappings(changes in prop::collection::vec(change(), 0..80)) {
        let table = FrameTable::new(FRAMES);
        let folio = table.claim(0, PageSize::Huge).unwrap().unfreeze(1);
        let (mut huge, mut pages) = (0_u32, vec![0_u32; 512]);

        for change in changes {
            match change {
                Change::MapHuge => { huge += 1; folio.map_huge(); }
                Change::MapPage(page) => { pages[page] += 1; folio.map_page(page); }
                Change::UnmapHuge if huge > 0 => { huge -= 1; folio.unmap_huge(); }
                Change::UnmapPage(page) if pages[page] > 0 => { pages[page] -= 1; folio.unmap_page(page); }
                Change::Split if huge > 0 => {
                    huge -= 1;
                    for page in &mut pages { *page += 1; }
                    folio.split_mapping();
                }
                _ => {}
            }

            for (page, count) in pages.iter().enumerate() {
                prop_assert_eq!(folio.mapcount(page), huge + count);
            }
            prop_assert_eq!(folio.total_mapcount(), huge + pages.iter().sum::<u32>());
            prop_assert_eq!(folio.largest_mapcount(), huge + pages.iter().max().unwrap());
        }
        (0..huge).for_each(|_| folio.unmap_huge());
        for (page, count) in pages.iter().enumerate() {
            (0..*count).for_each(|_| folio.unmap_page(page));
        }
        prop_assert_eq!(folio.total_mapcount(), 0);
    }

    #[test]
    fn references_agree_with_a_naive_count(
        steps in prop::collection::vec((0..6_u8, prop::sample::select(vec![0_u64, 1, 512, 600]), any::<bool>()), 0..200)
    ) {
        let table = FrameTable::new(FRAMES);
        // Of each folio in use, how many references there are; none while it is exclusive.
        let mut naive = BTreeMap::<(u64, PageSize), u32>::new();
        let mut exclusives = BTreeMap::new();

        for (step, index, is_huge) in steps {
            let size = if is_huge { PageSize::Huge } else { PageSize::Base };
            let first = index - if is_huge { index % BLOCK_PAGES } else { 0 };
            let key = (first, size);
            match step {
                0 => {
                    let overlaps = |&&(other, at): &&(u64, PageSize)| {
                        other / BLOCK_PAGES == first / BLOCK_PAGES && (at != size || other == first)
                    };
                    let in_use = naive.keys().find(overlaps).is_some();
                    let claimed = table.claim(index, size);
                    prop_assert_eq!(claimed.is_err(), in_use);
                    if let Ok(exclusive) = claimed {
                        naive.insert(key, 0);
                        exclusives.insert(key, exclusive);
                    }
                }
                1 => if let Some(exclusive) = exclusives.remove(&key) {
                    naive.insert(key, 2);
                    exclusive.unfreeze(2).leak();
                }
                2 => {
                    let got = table.try_get(index, size).map(FolioRef::leak);
                    let count = naive.get_mut(&key).filter(|count| **count > 0);
                    prop_assert_eq!(got.is_some(), count.is_some());
                    if let Some(count) = count { *count += 1; }
                }
                3 => if naive.get(&key).is_some_and(|count| *count > 0) {
                    drop(table.borrow(index, size).unwrap().adopt());
                    if naive[&key] == 1 { naive.remove(&key); } else { *naive.get_mut(&key).unwrap() -= 1; }
                }
                4 => if naive.get(&key).is_some_and(|count| *count > 0) {
                    let frozen = table.borrow(index, size).unwrap().adopt().freeze(2).map_err(FolioRef::leak);
                    prop_assert_eq!(frozen.is_ok(), naive[&key] == 2);
                    if let Ok(exclusive) = frozen {
                        naive.insert(key, 0);
                        exclusives.insert(key, exclusive);
                    }
                }
                _ => if let Some(exclusive) = exclusives.remove(&key) {
                    naive.remove(&key);
                    exclusive.free();
                }
            }

            let count = table.borrow(index, size).map_or(0, |folio| folio.references());
            prop_assert_eq!(count, naive.get(&key).copied().unwrap_or(0));
        }
    }
}
