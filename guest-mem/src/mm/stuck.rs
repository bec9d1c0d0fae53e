//! Pages that the host mapped and did not take back when it should have: their frames stay taken until it does.
//!
//! Nothing is entered for such a page, but the guest may reach its frame; given back, the frame could be zeroed under
//! the guest's writes. So whoever next has to do with the page asks the host again first.

use std::ops::Range;

use mmu_notifier::sync::{Mutex, Tally, lock};

use super::{FaultError, Mm};
use crate::{Gfn, pgtable::PtGuard};

/// The pages of one address space that are stuck.
#[derive(Debug, Default)]
pub(super) struct Stuck {
    /// How many ranges there are, for those who would rather not take the lock. Orders nothing: a range is stuck and freed
    /// under its page-table lock.
    count: Tally,
    /// A leaf. Empty unless the host refuses to zap.
    pages: Mutex<Vec<Range<Gfn>>>,
}

impl Stuck {
    fn push(&self, pages: Range<Gfn>) {
        let mut all = lock(&self.pages);
        all.push(pages);
        self.count.set(all.len() as u64);
    }

    /// Takes a range out that begins in the 2 MiB range at `block`.
    fn pop_in(&self, block: Gfn) -> Option<Range<Gfn>> {
        if self.count.get() == 0 {
            return None;
        }
        let mut all = lock(&self.pages);
        let at = all.iter().position(|pages| pages.start.block() == block)?;
        let pages = all.swap_remove(at);
        self.count.set(all.len() as u64);
        Some(pages)
    }

    fn blocks(&self) -> Vec<Gfn> {
        lock(&self.pages).iter().map(|pages| pages.start.block()).collect()
    }
}

impl Mm {
    /// Takes whatever the host has at `pages` away, whose frames are taken and of which nothing is entered.
    ///
    /// # Errors
    /// [`FaultError::Stuck`] if the host does not; the frames are not to be given back then: [`unstick`](Self::unstick)
    /// does.
    pub(super) fn zap(&self, pages: &Range<Gfn>) -> Result<(), FaultError> {
        self.install.zap(self.offsets(pages)).map_err(|source| {
            self.stuck.push(pages.clone());
            FaultError::Stuck { gfn: pages.start, source }
        })
    }

    /// Asks the host again for what is stuck under the lock of `pt`, and gives the frames of what it takes back to the
    /// pool.
    ///
    /// # Errors
    /// [`FaultError::Stuck`] if it still refuses.
    pub(super) fn unstick(&self, pt: &PtGuard<'_>) -> Result<(), FaultError> {
        while let Some(pages) = self.stuck.pop_in(pt.block()) {
            self.zap(&pages)?;
            self.give_back(&pages);
        }
        Ok(())
    }

    /// As [`unstick`](Self::unstick), everywhere.
    pub(super) fn unstick_all(&self) {
        for block in self.stuck.blocks() {
            let freed = self.lock_entries(block).and_then(|pt| self.unstick(&pt));
            if let Err(error) = freed {
                log::error!("{error}");
            }
        }
    }
}
