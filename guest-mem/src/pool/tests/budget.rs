//! What a budget allows.

use super::super::{CreatePoolError, OverBudget, ReserveError, TakeError};
use super::*;

fn budgeted(count: u64, stock: Option<Watermarks>) -> Arc<FramePool> {
    let config = PoolConfig { budget: Some(blocks(count)), stock, ..config(PoolMemory::Shmem, 64) };
    FramePool::new(&config).unwrap()
}

#[test]
fn a_stretch_that_the_budget_cannot_hold_is_refused_when_it_is_made() {
    let pool = budgeted(4, None);
    let first = pool.reserve(3, Commitment::Promised).unwrap();

    let refused = pool.reserve(2, Commitment::Promised);

    let over = OverBudget { needed: 1024, charged: 1536, limit: 2048 };
    assert!(matches!(refused, Err(ReserveError::OverBudget(error)) if error == over), "{refused:?}");
    drop(first);
    pool.reserve(4, Commitment::Promised).unwrap();
}

#[test]
fn a_take_beyond_the_budget_fails_and_one_within_a_promise_does_not() {
    let pool = budgeted(2, None);
    let promised = pool.reserve(1, Commitment::Promised).unwrap();
    let other = reserve(&pool, 4);
    pool.take_zeroed(block(&other, 0)).unwrap();

    let refused = pool.take_zeroed(frames(&other, 512..513));
    pool.take_zeroed(block(&promised, 0)).unwrap();

    assert!(matches!(refused, Err(TakeError::OverBudget(_))), "{refused:?}");
    assert_eq!(resident_in_host(&pool), 1024);
    pool.give_back(block(&other, 0)).unwrap();
    pool.take_zeroed(block(&other, 3)).unwrap();
    pool.give_back(block(&other, 3)).unwrap();
    pool.give_back(block(&promised, 0)).unwrap();
    pool.assert_all_free();
}

#[test]
fn free_frames_make_room_for_taken_ones() {
    let pool = budgeted(4, Some(Watermarks::fixed(4)));
    let stretch = reserve(&pool, 8);
    pool.wait_until_stocked();
    assert_eq!(pool.report().usage.clean, 4 * 512);

    for number in [7, 6, 5, 4] {
        pool.take_zeroed(block(&stretch, number)).unwrap();
    }

    assert_eq!(resident_in_host(&pool), 4 * 512);
    assert!(matches!(pool.take_zeroed(block(&stretch, 0)), Err(TakeError::OverBudget(_))));
    for number in [7, 6, 5, 4] {
        pool.give_back(block(&stretch, number)).unwrap();
    }
    pool.assert_all_free();
}

#[test]
fn watermarks_that_cross_are_refused() {
    let config = PoolConfig { stock: Some(Watermarks { low: 3, high: 2 }), ..config(PoolMemory::None, 1) };

    let refused = FramePool::new(&config);

    assert!(matches!(refused, Err(CreatePoolError::Watermarks { low: 3, high: 2 })), "{refused:?}");
}
