//! What an address space is made of.

use std::{fmt, sync::Arc, time::Duration};

use mmu_notifier::{AddressRange, PAGE_SIZE};

use super::{CreateMmError, Filler};
use crate::{BLOCK_SIZE, vma::VmaFlags};

/// How much is mapped at a fault, the page that faulted included.
///
/// Faults that come in order get more and more, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultAround {
    /// The aligned window around a base page, in bytes: a power of two from 4 KiB, which is no neighbour, to 2 MiB.
    pub base_bytes: u64,
    /// The most for base pages, in bytes; as above, and not less than that.
    pub most_base_bytes: u64,
    /// Huge pages in a row, the one that faulted and those behind it; at least 1. Neighbours are mapped only if their
    /// frames were zeroed ahead.
    pub huge_pages: u64,
    /// The most in a row; not less than that.
    pub most_huge_pages: u64,
}

impl FaultAround {
    /// Only what faulted: for access in no order.
    pub const OFF: Self =
        Self { base_bytes: PAGE_SIZE, most_base_bytes: PAGE_SIZE, huge_pages: 1, most_huge_pages: 1 };

    const fn is_valid(&self) -> bool {
        let bytes = [self.base_bytes, self.most_base_bytes];
        bytes[0].is_power_of_two()
            && bytes[1].is_power_of_two()
            && PAGE_SIZE <= bytes[0]
            && bytes[0] <= bytes[1]
            && bytes[1] <= BLOCK_SIZE
            && 1 <= self.huge_pages
            && self.huge_pages <= self.most_huge_pages
    }
}

impl Default for FaultAround {
    /// 64 KiB up to 2 MiB, and four huge pages up to sixteen.
    fn default() -> Self {
        Self { base_bytes: 64 << 10, most_base_bytes: BLOCK_SIZE, huge_pages: 4, most_huge_pages: 16 }
    }
}

/// How to make an [`Mm`](super::Mm).
#[derive(Clone)]
pub struct MmConfig {
    /// The guest-physical addresses: they begin at a multiple of 2 MiB.
    pub range: AddressRange,
    /// What is asked for in all of it, at first.
    pub flags: VmaFlags,
    /// How much is mapped at a fault.
    pub around: FaultAround,
    /// Where the first content comes from; zeros if from nowhere. Not looked at where memory is shared, which has its own.
    pub filler: Option<Arc<dyn Filler>>,
    /// Pages of 4 KiB that may be writable; `None` for all.
    pub commit_limit: Option<u64>,
    /// Threads that resolve faults at a time.
    pub handlers: usize,
    /// How long the faults of a page may fail before it is poisoned, so that the guest stops instead of faulting for ever.
    pub patience: Duration,
}

impl MmConfig {
    /// An address space of writable base pages that are zeros at first.
    #[must_use]
    pub fn new(range: AddressRange) -> Self {
        Self {
            range,
            flags: VmaFlags { writable: true, ..VmaFlags::default() },
            around: FaultAround::default(),
            filler: None,
            commit_limit: None,
            handlers: 1,
            patience: Duration::from_secs(5),
        }
    }

    /// Blocks of 2 MiB that the range takes.
    pub(crate) const fn blocks(&self) -> u64 {
        self.range.len().div_ceil(BLOCK_SIZE)
    }

    pub(crate) const fn check(&self) -> Result<(), CreateMmError> {
        if !self.range.start().is_multiple_of(BLOCK_SIZE) {
            return Err(CreateMmError::Unaligned { range: self.range });
        }
        if !self.around.is_valid() {
            return Err(CreateMmError::FaultAround { around: self.around });
        }
        Ok(())
    }
}

impl fmt::Debug for MmConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmConfig")
            .field("range", &self.range)
            .field("flags", &self.flags)
            .field("around", &self.around)
            .field("filler", &self.filler.as_ref().map(|filler| filler.name().to_owned()))
            .finish_non_exhaustive()
    }
}
