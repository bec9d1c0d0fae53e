//! The memory manager over a host that maps nothing, with frames that are real memory.
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod announced;
mod faulty;
mod history;
mod naive;
mod partial;
mod rules;
mod sharing;
mod threads;
mod wakes;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use mmu_notifier::{AddressRange, PAGE_SIZE};

use super::{Filler, Mm, MmConfig};
use crate::{
    Gfn,
    frame::PAGE_BYTES,
    pool::{FramePool, PoolConfig, PoolMemory},
};

/// Where the RAM begins.
const BASE: u64 = 4 << 30;

/// Pages `start` to `start + count` of the RAM.
fn pages(start: u64, count: u64) -> AddressRange {
    AddressRange::new(BASE + start * PAGE_SIZE, count * PAGE_SIZE).unwrap()
}

fn gfn(page: u64) -> Gfn {
    Gfn::of(BASE + page * PAGE_SIZE)
}

/// An address space on a pool of its own, of base pages that the kernel has.
fn mm(config: &MmConfig) -> (Arc<Mm>, Arc<FramePool>) {
    let pool = FramePool::new(&PoolConfig::new(PoolMemory::Shmem, "8M".parse().unwrap())).unwrap();
    let mm = Mm::modelled(config, &pool).unwrap();
    (mm, pool)
}

/// The numbers at both ends of the page, which the pool must say is taken.
fn read(mm: &Mm, gfn: Gfn) -> [u64; 2] {
    [0, PAGE_SIZE - 8].map(|offset| {
        let mut bytes = [0; 8];
        mm.pool().read(mm.frame(gfn), offset, &mut bytes).unwrap();
        u64::from_ne_bytes(bytes)
    })
}

/// Writes a number to both ends of the page.
fn write(mm: &Mm, gfn: Gfn, stamp: u64) {
    for offset in [0, PAGE_SIZE - 8] {
        mm.pool().write(mm.frame(gfn), offset, &stamp.to_ne_bytes()).unwrap();
    }
}

/// Fills each page with its number and one.
#[derive(Debug, Default)]
struct Numbers {
    fails: AtomicBool,
}

impl Filler for Numbers {
    fn name(&self) -> &'static str {
        "numbers"
    }

    fn fill(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if self.fails.load(Relaxed) {
            return Err(io::ErrorKind::Other.into());
        }
        for (page, bytes) in (offset / PAGE_SIZE..).zip(into.chunks_exact_mut(PAGE_BYTES)) {
            let (words, _) = bytes.as_chunks_mut();
            words.fill((page + 1).to_ne_bytes());
        }
        Ok(())
    }
}
