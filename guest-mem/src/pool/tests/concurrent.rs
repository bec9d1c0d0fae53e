//! Threads that take and give back while the worker runs.

use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};

use mmu_notifier::sync::thread;

use super::super::{Stocked, TakeError};
use super::*;

const BLOCKS: u64 = 8;
const THREADS: u8 = 3;
/// Of each thread.
const ROUNDS: u64 = 300;

/// Random numbers by xorshift (Marsaglia, 2003): the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Takes and gives back random frames, writes `byte` all over them, and looks at what is in them.
fn work(pool: &FramePool, stretch: &Stretch, owned: &[AtomicBool], byte: u8) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ u64::from(byte));
    let mut mine: Vec<Range<Pfn>> = Vec::new();
    let place = |frame: Pfn| usize::try_from(frame.index() - stretch.start().index()).unwrap();
    let give_back = |frames: Range<Pfn>| {
        // What this thread wrote is still there: nobody else had the frames.
        assert!(hold(pool, frames.clone(), byte));
        for flag in &owned[place(frames.start)..place(frames.end)] {
            // Release: pairs with the Acquire of the next owner's swap.
            assert!(flag.swap(false, Release));
        }
        pool.give_back(frames).unwrap();
    };
    for _ in 0..ROUNDS {
        if mine.len() > 6 {
            give_back(mine.swap_remove(usize::try_from(random.below(6)).unwrap()));
        }
        let block = random.below(BLOCKS) * 512;
        let start = block + random.below(512);
        let wanted = frames(stretch, start..(start + 1 + random.below(20)).min(block + 512));
        let zeroed = random.below(4) > 0;
        let taken = if zeroed {
            pool.take_zeroed(wanted.clone())
        } else {
            pool.take_for_fill(wanted.clone()).map(|()| Stocked(false))
        };
        match taken {
            Ok(_) => {}
            Err(TakeError::Taken(_)) => continue,
            Err(error) => panic!("{error:?}"),
        }
        for flag in &owned[place(wanted.start)..place(wanted.end)] {
            // Acquire: pairs with the Release of the last owner's swap.
            assert!(!flag.swap(true, Acquire), "two owners");
        }
        assert!(!zeroed || hold(pool, wanted.clone(), 0), "taken as zero, and is not");
        fill(pool, wanted.clone(), byte);
        mine.push(wanted);
        pool.nudge();
    }
    mine.into_iter().for_each(give_back);
}

/// Runs the threads on a pool that is made as `config` says.
fn torture(config: &PoolConfig) {
    let pool = FramePool::new(config).unwrap();
    let stretch = reserve(&pool, BLOCKS);
    let owned: Vec<_> = (0..stretch.frames()).map(|_| AtomicBool::new(false)).collect();

    thread::scope(|scope| {
        for byte in 1..=THREADS {
            let (pool, stretch, owned) = (&pool, &stretch, &owned);
            scope.spawn(move || work(pool, stretch, owned, byte));
        }
    });

    pool.wait_until_stocked();
    pool.assert_all_free();
    assert_eq!(pool.report().usage.resident, resident_in_host(&pool));
    drop(stretch);
    pool.assert_all_free();
    assert_eq!((resident_in_host(&pool), pool.report().charged), (0, 0));
}

#[test]
fn no_frame_has_two_owners_or_old_bytes_while_the_worker_zeroes_and_punches() {
    torture(&PoolConfig { stock: Some(Watermarks { low: 1, high: 2 }), ..config(PoolMemory::Shmem, BLOCKS) });
}

#[test]
fn nor_while_the_budget_is_tight() {
    // What three threads have at most, and little more.
    let budget = ByteSize::new(u64::from(THREADS) * 8 * 20 * PAGE_SIZE);
    let stock = Some(Watermarks { low: 1, high: 4 });

    torture(&PoolConfig { budget, stock, ..config(PoolMemory::Shmem, BLOCKS) });
}

#[test]
fn nor_in_huge_shmem_blocks() {
    torture(&PoolConfig { stock: Some(Watermarks::fixed(3)), ..config(PoolMemory::ShmemHuge, BLOCKS) });
}

#[test]
fn nor_while_stretches_come_and_go_at_one_place() {
    let stock = Some(Watermarks::fixed(1));
    let pool = FramePool::new(&PoolConfig { stock, ..config(PoolMemory::Shmem, 1) }).unwrap();

    for _ in 0..300 {
        let stretch = pool.reserve(1, Commitment::Promised).unwrap();
        let some = frames(&stretch, 100..140);
        pool.take_zeroed(some.clone()).unwrap();
        assert!(hold(&pool, some.clone(), 0));
        fill(&pool, some.clone(), 0xff);
        pool.give_back(some).unwrap();
        assert_eq!(pool.report().charged, 512, "charged to its promise and to nobody else");
    }

    pool.wait_until_stocked();
    pool.assert_all_free();
    assert_eq!((resident_in_host(&pool), pool.report().charged), (0, 0));
}

#[test]
fn nor_without_a_worker() {
    torture(&config(PoolMemory::Shmem, BLOCKS));
}
