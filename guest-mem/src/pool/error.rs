//! Why the operations of a pool fail.

use std::io;

use crate::{BLOCK_PAGES, ByteSize, HugePagePool, Pfn};

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum CreatePoolError {
    /// More frames than a [`Pfn`] can number.
    #[error("{capacity} is more than a pool can have; the most is 256T")]
    TooLarge {
        /// The capacity asked for.
        capacity: ByteSize,
    },
    /// Every number of a pool is in use.
    #[error("this process has 65536 pools already; drop one")]
    TooMany,
    /// The low watermark is above the high one.
    #[error("the low watermark of {low} blocks is above the high one of {high}; make it at most that")]
    Watermarks {
        /// The low one, in blocks.
        low: u64,
        /// The high one, in blocks.
        high: u64,
    },
    /// The memory file could not be made.
    #[error("cannot make a memfd of {capacity} for a pool")]
    Memfd {
        /// The capacity asked for.
        capacity: ByteSize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The direct map could not be made.
    #[error(
        "cannot map {capacity} of a pool; ask for less, or look at vm.overcommit_memory, vm.max_map_count and ulimit -v"
    )]
    Map {
        /// The capacity asked for.
        capacity: ByteSize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel has no transparent huge pages for shmem.
    #[error("the kernel did not take the advice on huge pages for a pool; use Shmem")]
    Advise(#[source] io::Error),
    /// The thread that zeroes ahead could not be started.
    #[error("cannot start the thread that zeroes frames ahead")]
    Thread(#[source] io::Error),
}

/// Too few pages of hugetlb.
#[derive(Debug, thiserror::Error)]
#[error(
    "{needed} huge pages of {} are needed and {} can be had ({} in the pool, {} free, {} of them reserved); to change that: {}",
    pool.size, pool.available(), pool.total, pool.free, pool.reserved, pool.command_for(*needed)
)]
pub struct TooFewPages {
    /// Pages that are needed.
    pub needed: u64,
    /// The host's pages just after they did not suffice.
    pub pool: HugePagePool,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// More than the budget holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{needed} more frames do not fit in the pool's budget of {limit}: {charged} are resident or promised; raise the budget, or take less"
)]
pub struct OverBudget {
    /// Frames that are needed beyond those charged.
    pub needed: u64,
    /// Frames that are resident, or promised to a stretch.
    pub charged: u64,
    /// Frames that the budget holds.
    pub limit: u64,
}

/// Why there is no stretch.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// No blocks were asked for.
    #[error("a stretch has at least one block")]
    Empty,
    /// The pool has no addresses left for it.
    #[error("the pool has no {blocks} free blocks in a row; make it with a larger capacity")]
    NoAddresses {
        /// Blocks asked for, rounded up to a power of two.
        blocks: u64,
    },
    /// The budget cannot hold what would be promised.
    #[error("cannot promise the frames of the stretch")]
    OverBudget(#[from] OverBudget),
    /// The host has too few huge pages.
    #[error("cannot promise the huge pages of the stretch")]
    TooFewPages(#[from] TooFewPages),
    /// The host refused.
    #[error("cannot reserve the huge pages of the stretch")]
    Host(#[source] io::Error),
}

/// Not a range of frames that the operation can be done on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrames {
    /// The frames are not in this pool.
    #[error("the frames {start:?} to {end:?} are not in pool {pool}, which has {frames}")]
    NotHere {
        /// The first.
        start: Pfn,
        /// The one after the last.
        end: Pfn,
        /// This pool's number.
        pool: u16,
        /// Frames that it has.
        frames: u64,
    },
    /// There is no frame in the range, or it crosses from one block to the next.
    #[error("the frames {start:?} to {end:?} are not part of one 2 MiB block; go block by block")]
    NotOneBlock {
        /// The first.
        start: Pfn,
        /// The one after the last.
        end: Pfn,
    },
    /// On hugetlb there are only whole blocks.
    #[error("{frames} frames at {start:?} are not a whole 2 MiB block, and hugetlb has no smaller ones")]
    NotWhole {
        /// The first.
        start: Pfn,
        /// How many.
        frames: usize,
    },
}

/// Why frames were not taken; none of them is.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// They cannot be taken together.
    #[error(transparent)]
    Frames(#[from] BadFrames),
    /// Somebody has one of them.
    #[error("the frame {0:?} is taken already")]
    Taken(Pfn),
    /// The budget cannot hold them.
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    /// The host has too few huge pages.
    #[error(transparent)]
    TooFewPages(#[from] TooFewPages),
    /// The host has no memory for them.
    #[error(
        "the host has no memory for {frames} frames at {start:?}; free some, or raise the control group's limit"
    )]
    NoMemory {
        /// The first.
        start: Pfn,
        /// How many.
        frames: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// They were to be one huge page, and the host has given small ones.
    #[error("the memory at {start:?} is not a huge page, as the host had none; take single frames")]
    NotHuge {
        /// The first.
        start: Pfn,
    },
    /// The host refused to zero or populate them.
    #[error("the host refused to populate or zero frames at {start:?}")]
    Host {
        /// The first.
        start: Pfn,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Why frames were not given back, or not accessed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// They are not frames of this pool, or not of one block.
    #[error(transparent)]
    Frames(#[from] BadFrames),
    /// Nobody has one of them: it may not exist, and touching it could be fatal.
    #[error("the frame {0:?} is not taken")]
    NotTaken(Pfn),
    /// The host refused.
    #[error("the host refused to access frames of the pool")]
    Host(#[from] io::Error),
}

/// A pool has no free addresses of some order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pool has no 2^{order} free frames in a row; make it with a larger capacity")]
pub struct NoFrames {
    /// The logarithm to base 2 of the frames asked for.
    pub order: u32,
}

/// Why addresses were not returned to a pool; they are still set aside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FreeError {
    /// They were not set aside by [`alloc`](super::Frames::alloc), or not as one run.
    #[error("2^{order} frames at {start:?} were not allocated as one run")]
    NotAllocated {
        /// The first.
        start: Pfn,
        /// The logarithm to base 2 of how many.
        order: u32,
    },
    /// Somebody has one of the frames.
    #[error("the frame {0:?} is still taken; give it back first")]
    Taken(Pfn),
}

/// Errors that go away when memory is returned to the host.
pub(super) trait Shortage {
    /// How many frames would have to be returned, if that helps at all.
    fn missing(&self) -> Option<u64>;
}

impl Shortage for TakeError {
    fn missing(&self) -> Option<u64> {
        match self {
            Self::OverBudget(over) => Some(over.missing()),
            Self::TooFewPages(few) => Some(few.missing()),
            Self::NoMemory { frames, .. } => Some(*frames),
            Self::Frames(_) | Self::Taken(_) | Self::NotHuge { .. } | Self::Host { .. } => None,
        }
    }
}

impl Shortage for ReserveError {
    fn missing(&self) -> Option<u64> {
        match self {
            Self::OverBudget(over) => Some(over.missing()),
            Self::TooFewPages(few) => Some(few.missing()),
            Self::Empty | Self::NoAddresses { .. } | Self::Host(_) => None,
        }
    }
}

impl OverBudget {
    fn missing(&self) -> u64 {
        self.needed.saturating_sub(self.limit.saturating_sub(self.charged))
    }
}

impl TooFewPages {
    fn missing(&self) -> u64 {
        self.needed.saturating_sub(self.pool.available()).max(1).saturating_mul(BLOCK_PAGES)
    }
}
