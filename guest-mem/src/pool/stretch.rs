//! The frames that one VM's RAM is made of.

use std::ops::Range;
use std::sync::Arc;

use super::{FramePool, UsageReport, account::Account};
use crate::{BLOCK_PAGES, Pfn};

/// An aligned run of blocks of a pool, for one owner; its frames can be taken and given back.
///
/// Dropping it returns the frames that are free to the host and the addresses to the pool. If a frame is still taken
/// then, that is a bug of the owner: the addresses stay out of use for as long as the pool lives, and it is logged.
///
/// On hugetlb a promise is given up by populating what was never taken, page by page: unless the pool goes as well, that
/// takes as long as zeroing it.
#[derive(Debug)]
pub struct Stretch {
    pub(super) pool: Arc<FramePool>,
    pub(super) account: Arc<Account>,
}

impl Stretch {
    /// Its pool.
    #[must_use]
    pub fn pool(&self) -> &Arc<FramePool> {
        &self.pool
    }

    /// The first frame; its index is a multiple of the number of blocks, rounded up to a power of two, times 512.
    #[must_use]
    pub fn start(&self) -> Pfn {
        Pfn::new(self.pool.number(), self.account.blocks().start * BLOCK_PAGES)
    }

    /// The number of frames.
    #[must_use]
    pub fn frames(&self) -> u64 {
        let blocks = self.account.blocks();
        (blocks.end - blocks.start) * BLOCK_PAGES
    }

    /// All its frames.
    #[must_use]
    pub fn range(&self) -> Range<Pfn> {
        self.start()..self.start().plus(self.frames())
    }

    /// What its frames are used for.
    #[must_use]
    pub fn report(&self) -> UsageReport {
        self.pool.usage_of(self.account.blocks())
    }
}

impl Drop for Stretch {
    fn drop(&mut self) {
        // With its last owner the pool goes, and all that it holds of the host.
        if Arc::strong_count(&self.pool) > 1 {
            self.pool.close(&self.account);
        }
    }
}
