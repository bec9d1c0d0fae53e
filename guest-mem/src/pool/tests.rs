//! Pools with real memory.
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod budget;
mod concurrent;
mod hugetlb;
mod life;
mod stock;

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use mmu_notifier::PAGE_SIZE;

use super::{Commitment, FramePool, PoolConfig, PoolMemory, Stretch, Watermarks};
use crate::{BLOCK_SIZE, ByteSize, Pfn, host};

/// Bytes in a frame.
const PAGE: usize = 4096;

/// 2 MiB blocks, as bytes.
fn blocks(count: u64) -> ByteSize {
    ByteSize::new(count * BLOCK_SIZE).unwrap()
}

fn config(memory: PoolMemory, count: u64) -> PoolConfig {
    PoolConfig { name: "test".to_owned(), ..PoolConfig::new(memory, blocks(count)) }
}

/// A shmem pool of 16 blocks that zeroes nothing ahead.
fn plain() -> Arc<FramePool> {
    FramePool::new(&config(PoolMemory::Shmem, 16)).unwrap()
}

/// A shmem pool of 64 blocks that keeps some ready.
fn stocked(watermarks: Watermarks) -> Arc<FramePool> {
    FramePool::new(&PoolConfig { stock: Some(watermarks), ..config(PoolMemory::Shmem, 64) }).unwrap()
}

fn reserve(pool: &Arc<FramePool>, count: u64) -> Stretch {
    pool.reserve(count, Commitment::Overcommitted).unwrap()
}

/// The frames at `places` of a stretch.
fn frames(stretch: &Stretch, places: Range<u64>) -> Range<Pfn> {
    stretch.start().plus(places.start)..stretch.start().plus(places.end)
}

/// The whole block `number` of a stretch.
fn block(stretch: &Stretch, number: u64) -> Range<Pfn> {
    frames(stretch, number * 512..(number + 1) * 512)
}

/// Writes `byte` all over taken frames.
#[track_caller]
fn fill(pool: &FramePool, frames: Range<Pfn>, byte: u8) {
    for index in 0..frames.end.index() - frames.start.index() {
        pool.write(frames.start.plus(index), 0, &[byte; PAGE]).unwrap();
    }
}

/// Whether taken frames hold `byte` and nothing else.
#[track_caller]
fn hold(pool: &FramePool, frames: Range<Pfn>, byte: u8) -> bool {
    let mut page = [!byte; PAGE];
    (0..frames.end.index() - frames.start.index()).all(|index| {
        pool.read(frames.start.plus(index), 0, &mut page).unwrap();
        page.iter().all(|&found| found == byte)
    })
}

/// Frames that the host has memory for, by its own count.
#[track_caller]
fn resident_in_host(pool: &FramePool) -> u64 {
    let file = File::from(pool.fd().unwrap().try_clone_to_owned().unwrap());
    host::allocated_bytes(&file).unwrap() / PAGE_SIZE
}
