//! What a pool is made of, and how much of it is kept ready.

use crate::ByteSize;

/// Where the frames of a pool come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolMemory {
    /// A memfd on shmem, in pages of 4 KiB.
    Shmem,
    /// A memfd on shmem that asks for transparent huge pages, and is populated in blocks of 2 MiB.
    ShmemHuge,
    /// A memfd on hugetlb, in pages of 2 MiB.
    Hugetlb,
    /// No memory at all: the frames are numbers. What is written to them is lost, what is read is zero.
    None,
}

/// How many 2 MiB blocks are kept present, zero and free ahead of the takers.
///
/// When fewer than `low` are left in front of the block that was taken last, the pool's worker makes them `high`.
/// Free blocks beyond `high`, zero or not, go back to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Blocks that are left when the worker starts.
    pub low: u64,
    /// Blocks that are there when it stops.
    pub high: u64,
}

/// How to make a [`FramePool`](super::FramePool).
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// What the pool's memory is called in `/proc/PID/maps`.
    pub name: String,
    /// Where the frames come from.
    pub memory: PoolMemory,
    /// The addresses of the pool, rounded up to 2 MiB. The pool is sparse, so they cost nothing.
    pub capacity: ByteSize,
    /// The bytes that the pool may hold of the host; `None` for no limit of its own.
    pub budget: Option<ByteSize>,
    /// What is zeroed ahead; `None` for nothing, and no thread. What is given back goes back to the host then.
    pub stock: Option<Watermarks>,
}

/// Whether the frames of a stretch are promised to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commitment {
    /// All of them can be taken at any time: the budget holds them, and on hugetlb the kernel has set the pages aside.
    Promised,
    /// None is: a take may fail.
    Overcommitted,
}

impl Watermarks {
    /// A fixed number of blocks: whenever one is taken, another is made ready.
    #[must_use]
    pub const fn fixed(blocks: u64) -> Self {
        Self { low: blocks, high: blocks }
    }
}

impl PoolConfig {
    /// A pool of `capacity` of `memory`, with no budget and nothing zeroed ahead.
    #[must_use]
    pub fn new(memory: PoolMemory, capacity: ByteSize) -> Self {
        Self { name: "pool".to_owned(), memory, capacity, budget: None, stock: None }
    }
}
