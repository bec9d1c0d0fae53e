//! What the worker keeps ready.

use super::super::Stocked;
use super::*;

#[test]
fn what_is_zeroed_ahead_is_taken_without_zeroing() {
    let pool = stocked(Watermarks::fixed(3));
    let stretch = reserve(&pool, 8);
    pool.wait_until_stocked();

    let taken: Vec<_> = (0..4).map(|number| pool.take_zeroed(block(&stretch, number)).unwrap()).collect();

    assert_eq!(taken[..3], [Stocked(true); 3]);
    let report = pool.report();
    assert!(
        report.stock_hits >= 3 * 512 && report.stock_hits + report.zeroed_at_take == 4 * 512,
        "{report:?}"
    );
    assert!((0..4).all(|number| hold(&pool, block(&stretch, number), 0)));
}

#[test]
fn the_stock_follows_the_last_taken_block() {
    let pool = stocked(Watermarks::fixed(2));
    let stretch = reserve(&pool, 32);
    pool.wait_until_stocked();
    assert_eq!(pool.take_zeroed(block(&stretch, 20)).unwrap(), Stocked(false));

    pool.wait_until_stocked();

    assert_eq!(pool.take_zeroed(block(&stretch, 21)).unwrap(), Stocked(true));
    assert_eq!(pool.take_zeroed(block(&stretch, 22)).unwrap(), Stocked(true));
}

#[test]
fn a_nudge_after_a_take_keeps_a_sequential_taker_stocked() {
    let pool = stocked(Watermarks { low: 1, high: 4 });
    let stretch = reserve(&pool, 32);

    for number in 0..32 {
        pool.wait_until_stocked();
        assert_eq!(pool.take_zeroed(block(&stretch, number)).unwrap(), Stocked(true), "block {number}");
        pool.nudge();
    }
    pool.wait_until_stocked();

    assert_eq!(pool.report().stock_hits, 32 * 512);
}

#[test]
fn a_low_stock_and_a_miss_ask_for_the_worker_and_nothing_else_does() {
    let pool = stocked(Watermarks { low: 1, high: 4 });
    let stretch = reserve(&pool, 32);
    pool.wait_until_stocked();
    let asks_after = |number| {
        pool.take_zeroed(block(&stretch, number)).unwrap();
        pool.signal.is_wanted()
    };

    let in_order = [0, 1, 2, 3].map(asks_after);
    pool.nudge();
    let nudged = pool.signal.is_wanted();
    pool.wait_until_stocked();
    let missed = asks_after(30);

    assert_eq!(in_order, [false, false, false, true]);
    assert!(!nudged && missed);
}

#[test]
fn free_frames_above_the_high_watermark_are_punched() {
    let pool = stocked(Watermarks { low: 1, high: 2 });
    let stretch = reserve(&pool, 32);
    for number in 0..16 {
        pool.take_zeroed(block(&stretch, number)).unwrap();
    }

    for number in 0..16 {
        pool.give_back(block(&stretch, number)).unwrap();
    }
    pool.nudge();
    pool.wait_until_stocked();

    let report = pool.report();
    assert_eq!((report.usage.resident, report.usage.clean), (2 * 512, 2 * 512), "{report:?}");
    assert_eq!(resident_in_host(&pool), 2 * 512);
    pool.assert_all_free();
}

#[test]
fn stretches_share_the_stock() {
    let pool = stocked(Watermarks::fixed(4));

    let stretches = [reserve(&pool, 8), reserve(&pool, 8)];
    pool.wait_until_stocked();

    let clean = stretches.each_ref().map(|stretch| stretch.report().clean / 512);
    assert!(clean.iter().all(|&blocks| blocks >= 2) && clean.iter().sum::<u64>() == 4, "{clean:?}");
}
