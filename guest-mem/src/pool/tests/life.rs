//! Frames from the time they are taken until they are free again.

use super::super::{BadFrames, FrameError, FreeError, ReserveError, Stocked, TakeError};
use super::*;

#[test]
fn a_taken_frame_is_zero_whatever_it_held_before() {
    for pool in [plain(), stocked(Watermarks { low: 0, high: 8 })] {
        let stretch = reserve(&pool, 2);
        let some = frames(&stretch, 3..200);

        pool.take_zeroed(some.clone()).unwrap();
        assert!(hold(&pool, some.clone(), 0));
        fill(&pool, some.clone(), 0xa5);
        pool.give_back(some).unwrap();
        pool.take_zeroed(block(&stretch, 0)).unwrap();

        assert!(hold(&pool, block(&stretch, 0), 0));
        pool.give_back(block(&stretch, 0)).unwrap();
        pool.assert_all_free();
    }
}

#[test]
fn no_frame_is_taken_twice_and_a_refused_take_takes_none() {
    let pool = plain();
    let stretch = reserve(&pool, 1);
    pool.take_zeroed(frames(&stretch, 10..20)).unwrap();

    let refused = pool.take_zeroed(frames(&stretch, 0..11));

    let tenth = stretch.start().plus(10);
    assert!(matches!(refused, Err(TakeError::Taken(frame)) if frame == tenth), "{refused:?}");
    assert_eq!(pool.report().usage.used, 10);
    pool.take_for_fill(frames(&stretch, 0..10)).unwrap();
    pool.give_back(frames(&stretch, 0..20)).unwrap();
    pool.assert_all_free();
}

#[test]
fn what_nobody_has_is_neither_given_back_nor_touched() {
    let pool = plain();
    let stretch = reserve(&pool, 1);
    pool.take_zeroed(frames(&stretch, 0..4)).unwrap();
    let free = stretch.start().plus(4);

    let answers = [
        pool.give_back(frames(&stretch, 3..5)),
        pool.zero(frames(&stretch, 3..5)),
        pool.write(stretch.start().plus(3), PAGE_SIZE - 1, &[1, 2]),
        pool.read(stretch.start(), 4 * PAGE_SIZE, &mut [0]),
        pool.copy(frames(&stretch, 0..2), stretch.start().plus(3)),
        pool.copy(frames(&stretch, 3..5), stretch.start()),
    ];

    for answer in answers {
        assert!(matches!(answer, Err(FrameError::NotTaken(frame)) if frame == free), "{answer:?}");
    }
    pool.give_back(frames(&stretch, 0..4)).unwrap();
}

#[test]
fn frames_of_several_blocks_or_of_another_pool_are_refused() {
    let (pool, other) = (plain(), plain());
    let stretch = reserve(&pool, 2);
    let past = Pfn::new(pool.number(), pool.frames());

    let refused = |range| match pool.take_zeroed(range) {
        Err(TakeError::Frames(error)) => error,
        answer => panic!("{answer:?}"),
    };

    assert!(matches!(refused(frames(&stretch, 511..513)), BadFrames::NotOneBlock { .. }));
    assert!(matches!(refused(frames(&stretch, 5..5)), BadFrames::NotOneBlock { .. }));
    assert!(matches!(refused(past..past.plus(1)), BadFrames::NotHere { .. }));
    let foreign = Pfn::new(other.number(), 0);
    assert!(matches!(refused(foreign..foreign.plus(1)), BadFrames::NotHere { .. }));
}

#[test]
fn frames_are_copied_with_all_their_bytes() {
    let pool = plain();
    let stretch = reserve(&pool, 2);
    pool.take_zeroed(block(&stretch, 0)).unwrap();
    pool.take_for_fill(block(&stretch, 1)).unwrap();
    fill(&pool, frames(&stretch, 0..512), 7);
    pool.zero(frames(&stretch, 100..101)).unwrap();

    pool.copy(block(&stretch, 0), block(&stretch, 1).start).unwrap();

    assert!(hold(&pool, frames(&stretch, 512..612), 7));
    assert!(hold(&pool, frames(&stretch, 612..613), 0));
    assert!(hold(&pool, frames(&stretch, 613..1024), 7));
    pool.give_back(block(&stretch, 0)).unwrap();
    pool.give_back(block(&stretch, 1)).unwrap();
}

#[test]
fn without_a_worker_what_is_given_back_goes_back_to_the_host() {
    let pool = plain();
    let stretch = reserve(&pool, 2);

    pool.take_zeroed(frames(&stretch, 0..100)).unwrap();
    let taken = resident_in_host(&pool);
    pool.give_back(frames(&stretch, 20..100)).unwrap();
    let kept = (resident_in_host(&pool), pool.report().usage.resident, stretch.report().used);

    assert_eq!(taken, 100);
    assert_eq!(kept, (20, 20, 20));
    pool.give_back(frames(&stretch, 0..20)).unwrap();
    assert_eq!(resident_in_host(&pool), 0);
    pool.assert_all_free();
}

#[test]
fn a_stretch_that_ends_leaves_nothing_behind() {
    let pool = stocked(Watermarks::fixed(4));
    let stretch = reserve(&pool, 5);
    pool.wait_until_stocked();
    pool.take_zeroed(block(&stretch, 0)).unwrap();
    pool.give_back(block(&stretch, 0)).unwrap();

    drop(stretch);

    pool.wait_until_stocked();
    pool.assert_all_free();
    assert_eq!((resident_in_host(&pool), pool.report().charged), (0, 0));
    reserve(&pool, 64);
}

#[test]
fn frames_that_somebody_keeps_are_not_handed_to_another() {
    let pool = plain();
    let stretch = reserve(&pool, 8);
    let kept = frames(&stretch, 600..700);
    pool.take_zeroed(kept.clone()).unwrap();
    fill(&pool, kept.clone(), 9);

    drop(stretch);

    let rest = reserve(&pool, 8);
    assert!(matches!(
        pool.reserve(8, Commitment::Overcommitted),
        Err(ReserveError::NoAddresses { blocks: 8 })
    ));
    assert!(hold(&pool, kept.clone(), 9));
    pool.give_back(kept).unwrap();
    drop(rest);
    pool.assert_all_free();
}

#[test]
fn single_runs_share_a_block_and_leave_it_clean_for_a_stretch() {
    let pool = FramePool::new(&config(PoolMemory::Shmem, 1)).unwrap();
    let (small, large) = (pool.alloc(0).unwrap(), pool.alloc(6).unwrap());
    pool.take_zeroed(large..large.plus(64)).unwrap();
    fill(&pool, large..large.plus(64), 3);

    assert_eq!(pool.free(large, 6), Err(FreeError::Taken(large)));
    pool.give_back(large..large.plus(64)).unwrap();
    pool.free(large, 6).unwrap();
    assert_eq!(pool.free(large, 6), Err(FreeError::NotAllocated { start: large, order: 6 }));
    pool.free(small, 0).unwrap();

    let stretch = reserve(&pool, 1);
    pool.take_zeroed(block(&stretch, 0)).unwrap();
    assert!(hold(&pool, block(&stretch, 0), 0));
    assert_eq!(stretch.report().used, 512);
    pool.give_back(block(&stretch, 0)).unwrap();
    pool.assert_all_free();
}

#[test]
fn huge_shmem_blocks_are_populated_and_punched_whole() {
    let pool = FramePool::new(&config(PoolMemory::ShmemHuge, 4)).unwrap();
    let stretch = reserve(&pool, 4);

    pool.take_zeroed(frames(&stretch, 5..6)).unwrap();
    let neighbour = pool.take_zeroed(frames(&stretch, 6..7)).unwrap();
    pool.give_back(frames(&stretch, 6..7)).unwrap();
    let partly = resident_in_host(&pool);
    pool.give_back(frames(&stretch, 5..6)).unwrap();

    assert_eq!(neighbour, Stocked(true));
    assert_eq!(partly, 512);
    assert_eq!(resident_in_host(&pool), 0);
    pool.assert_all_free();
}

#[test]
fn a_pool_without_memory_may_be_as_large_as_numbers_go() {
    let pool = FramePool::new(&config(PoolMemory::None, 1 << 27)).unwrap();
    let stretch = reserve(&pool, (1 << 40) / BLOCK_SIZE);

    for number in (0..1 << 19).step_by(10_007) {
        pool.take_zeroed(block(&stretch, number)).unwrap();
    }

    assert_eq!(stretch.report().used, 53 * 512);
    assert!(pool.fd().is_none());
}
