//! Shared memory whose first content a filler supplies.

use std::thread;

use super::*;
use crate::mm::{Cause, Resolved, Scratch, resolve};

#[test]
fn a_page_is_filled_once_for_both_and_goes_in_a_shrink_until_one_writes() {
    let filler = Arc::<Numbers>::default();
    let shared = Shared::new(PoolMemory::Shmem, Some(filler.clone()), [HugePolicy::Never; 2]);
    for mm in &shared.mms {
        mm.modify(pages(0, COUNT), &VmaChange::Writable(false)).unwrap();
    }
    let read_through = |mm: usize, page: u64| {
        shared.mms[mm].touch(gfn(page).address(), false).unwrap();
        read(&shared.mms[mm], gfn(page))
    };
    assert_eq!([1, 2].map(|page| read_through(0, page)), [[2; 2], [3; 2]]);
    filler.fails.store(true, Relaxed);
    assert_eq!([1, 2].map(|page| read_through(1, page)), [[2; 2], [3; 2]], "not filled again");

    // What one may have written stays, also when its entry has gone.
    shared.mms[1].modify(pages(2, 1), &VmaChange::Writable(true)).unwrap();
    shared.touch(1, 2);
    shared.mms[1].dont_need(pages(2, 1)).unwrap();
    let shrunk = shared.mms[0].shrink(u64::MAX);

    let expected = Shrunk { freed_bytes: PAGE_SIZE, needed_bytes: PAGE_SIZE, ..Shrunk::default() };
    assert_eq!((shrunk, shared.used()), (expected, 1));
    filler.fails.store(false, Relaxed);
    assert_eq!([1, 2].map(|page| read_through(1, page)), [[2; 2], [3; 2]]);
    shared.end();
}

/// Stalls the first time it is asked, until it is told to go on.
#[derive(Default)]
struct Stalling {
    asked: AtomicBool,
    go_on: AtomicBool,
}

impl Filler for Stalling {
    fn name(&self) -> &'static str {
        "stalling"
    }

    fn fill(&self, _: u64, into: &mut [u8]) -> io::Result<()> {
        if !self.asked.swap(true, Relaxed) {
            while !self.go_on.load(Relaxed) {
                thread::yield_now();
            }
        }
        into.fill(7);
        Ok(())
    }
}

#[test]
fn a_fill_that_stalls_in_an_address_space_that_ends_keeps_nobody_waiting() {
    let filler = Arc::<Stalling>::default();
    let shared = Shared::new(PoolMemory::Shmem, Some(filler.clone()), [HugePolicy::Never; 2]);
    let Shared { pool, memory, mms: [one, other] } = shared;
    let ending = Arc::downgrade(&one);
    let stalled = thread::spawn(move || {
        resolve(|| ending.upgrade(), gfn(1), Cause::NotMapped, &mut Scratch::default()).is_none()
    });
    while !filler.asked.load(Relaxed) {
        thread::yield_now();
    }
    let busy = other.fault(gfn(1), Cause::NotMapped, &mut Scratch::default()).unwrap();
    assert_eq!(busy, Resolved::Left, "another fills it");

    drop(one);
    other.touch(gfn(1).address(), true).unwrap();

    assert_eq!(read(&other, gfn(1)), [0x0707_0707_0707_0707; 2]);
    filler.go_on.store(true, Relaxed);
    assert!(stalled.join().unwrap(), "what it filled came too late");
    drop((other, memory));
    pool.assert_all_free();
}
