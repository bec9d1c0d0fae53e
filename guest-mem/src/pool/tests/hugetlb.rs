//! Pools on hugetlb; skipped where the host gives no huge pages.

use super::super::{BadFrames, ReserveError, Stocked, TakeError};
use super::*;
use crate::{HostSettings, HugePagePool, HugePageSize};

/// Exactly so many huge pages, for this test alone.
fn pages(count: u64) -> Option<HostSettings> {
    match HostSettings::lock().unwrap().with_huge_pages(HugePageSize::Mb2, count) {
        Ok(settings) => Some(settings),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

fn available() -> u64 {
    HugePagePool::read(HugePageSize::Mb2).unwrap().available()
}

fn pool(stock: Option<Watermarks>) -> Arc<FramePool> {
    FramePool::new(&PoolConfig { stock, ..config(PoolMemory::Hugetlb, 64) }).unwrap()
}

#[test]
fn a_pool_and_an_overcommitted_stretch_hold_no_page() {
    let Some(_pages) = pages(2) else { return };

    let pool = pool(None);
    let stretch = reserve(&pool, 64);

    assert_eq!(available(), 2);
    pool.take_zeroed(block(&stretch, 63)).unwrap();
    assert_eq!(available(), 1);
    pool.give_back(block(&stretch, 63)).unwrap();
    assert_eq!(available(), 2);
    pool.assert_all_free();
}

#[test]
fn promised_pages_are_nobody_elses_and_come_back_at_the_end() {
    let Some(_pages) = pages(4) else { return };
    let pool = pool(None);

    let stretch = pool.reserve(3, Commitment::Promised).unwrap();
    assert_eq!(available(), 1);
    for number in [1, 2] {
        pool.take_zeroed(block(&stretch, number)).unwrap();
        pool.give_back(block(&stretch, number)).unwrap();
    }
    assert_eq!(available(), 1);
    drop(stretch);

    assert_eq!(available(), 4);
    pool.assert_all_free();
}

#[test]
fn a_promise_without_pages_says_what_to_write_where() {
    let Some(_pages) = pages(2) else { return };
    let pool = pool(None);

    let Err(ReserveError::TooFewPages(error)) = pool.reserve(3, Commitment::Promised) else {
        panic!("three pages of two");
    };

    let text = error.to_string();
    assert!(text.starts_with("3 huge pages of 2M are needed and 2 can be had"), "{text}");
    assert!(text.contains("nr_hugepages"), "{text}");
    assert_eq!(available(), 2);
    assert_eq!(pool.report().charged, 0);
    drop(pool.reserve(2, Commitment::Promised).unwrap());
}

#[test]
fn one_page_serves_one_block_after_another() {
    let Some(_pages) = pages(1) else { return };
    let pool = pool(Some(Watermarks::fixed(1)));
    let stretch = reserve(&pool, 8);

    for number in [0, 5, 2, 7, 7] {
        pool.take_zeroed(block(&stretch, number)).unwrap();
        assert!(hold(&pool, block(&stretch, number), 0));
        let other = pool.take_zeroed(block(&stretch, 3));
        assert!(matches!(other, Err(TakeError::TooFewPages(_))), "{other:?}");
        fill(&pool, block(&stretch, number), 0xee);
        pool.give_back(block(&stretch, number)).unwrap();
    }

    pool.assert_all_free();
}

#[test]
fn pages_are_zeroed_ahead() {
    let Some(_pages) = pages(4) else { return };
    let pool = pool(Some(Watermarks::fixed(2)));
    let stretch = pool.reserve(4, Commitment::Promised).unwrap();

    for number in 0..4 {
        pool.wait_until_stocked();
        assert_eq!(pool.take_zeroed(block(&stretch, number)).unwrap(), Stocked(true));
        fill(&pool, block(&stretch, number), 1);
    }
    for number in 0..4 {
        pool.give_back(block(&stretch, number)).unwrap();
    }
    pool.wait_until_stocked();

    // What is promised stays.
    assert_eq!((pool.report().usage.resident, available()), (4 * 512, 0));
    drop(stretch);
    assert_eq!(available(), 4);
    pool.assert_all_free();
}

#[test]
fn part_of_a_page_is_no_frame() {
    let pool = pool(None);
    let stretch = reserve(&pool, 1);

    let refused = pool.take_zeroed(frames(&stretch, 0..511));

    let whole = BadFrames::NotWhole { start: stretch.start(), frames: 511 };
    assert!(matches!(refused, Err(TakeError::Frames(error)) if error == whole));
}
