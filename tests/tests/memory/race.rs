//! Discards that race with each other and with touches.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, ScopedJoinHandle},
};

use guest_mem::Backing;
use underlay_tests::{Suite, huge_pages};
use vm_memory::{Bytes, GuestAddress};

use super::support::{HUGETLB, M, assert_filled, available, mapped, pages_of_2m, part, ram, resident};

pub(crate) fn add_to(suite: &mut Suite) {
    for backing in [Backing::Anonymous, Backing::Shmem] {
        suite.test(format!("race::discards_of_{backing}_fail_no_touch"), &[], move || discards(backing));
    }
    for backing in HUGETLB {
        suite.test(format!("race::discards_of_{backing}_fail_no_touch"), &[pages_of_2m(4)], move || {
            // No page more than the RAM has: a touch that found no promise would find nothing.
            let _pages = huge_pages(&backing, 8 * M);
            discards(backing);
            assert_eq!(available(), 4, "every promise went with its RAM");
        });
    }
    suite.test("race::mappings_of_shared_hugetlb_2mb_are_united_under_touches", &[pages_of_2m(160)], united);
}

/// Discards of single pages, after each of which mappings of shared huge pages are united, race with touches of what is
/// kept: nobody ever sees a page without what was written there.
fn united() {
    const PAGES: u64 = 160;
    let backing = Backing::SharedHugetlb2mb;
    let _pages = huge_pages(&backing, PAGES * 2 * M);
    let ram = ram("united", backing, "320M");
    let running = AtomicBool::new(true);

    thread::scope(|scope| {
        let (ram, running) = (&ram, &running);
        let touchers: Vec<_> = (0..2)
            .map(|thread| {
                let word = move |page: u64| GuestAddress(ram.range().start() + page * 2 * M + thread * 8);
                scope.spawn(move || {
                    for count in 0_u64.. {
                        for page in (0..PAGES).step_by(2) {
                            if count > 0 {
                                assert_eq!(ram.view().read_obj::<u64>(word(page)).unwrap(), count - 1);
                            }
                            ram.view().write_obj(count, word(page)).unwrap();
                        }
                        if !running.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                })
            })
            .collect();
        // In no order, and each page again and again.
        let discarded = (0..4000).try_for_each(|count: u64| {
            let page = count * 7 % (PAGES / 2) * 2 + 1;
            ram.discard(part(ram, page * 2 * M, 2 * M)).map(drop)
        });
        running.store(false, Ordering::Relaxed);
        for toucher in touchers {
            toucher.join().unwrap();
        }
        discarded.unwrap();
    });

    assert!(mapped("united") <= 64);
    assert_eq!(available(), 0);
}

/// Discards that overlap race with each other and with touches of the same pages: none fails, the page that nobody
/// discards keeps what is written, and the last discard leaves nothing.
///
/// With 20 discards a thread, a build that frees shared huge pages without the stand-in passed; with 2000 it never did.
fn discards(backing: Backing) {
    let ram = ram("races", backing, "8M");
    let (kept, raced) = (part(&ram, 0, 2 * M), part(&ram, 2 * M, 6 * M));
    let running = AtomicBool::new(true);

    thread::scope(|scope| {
        let (ram, running) = (&ram, &running);
        for thread in 0..4 {
            let word = move |page: u64| GuestAddress(ram.range().start() + page * 2 * M + thread * 8);
            scope.spawn(move || {
                for count in 0_u64.. {
                    for page in 0..4 {
                        ram.view().write_obj(count, word(page)).unwrap();
                    }
                    assert_eq!(ram.view().read_obj::<u64>(word(0)).unwrap(), count);
                    if !running.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        let discards = [(2, 2), (2, 6), (3, 4), (6, 2)].map(|(start, len)| {
            let range = part(ram, start * M, len * M);
            scope.spawn(move || (0..2000).try_for_each(|_| ram.discard(range).map(drop)))
        });
        let results = discards.map(ScopedJoinHandle::join);
        running.store(false, Ordering::Relaxed);
        for result in results {
            result.unwrap().unwrap();
        }
    });

    ram.discard(raced).unwrap();
    assert!(resident(&ram) <= kept.len());
    assert_filled(&ram, raced, 0);
}
