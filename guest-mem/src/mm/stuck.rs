//! Pages that the host mapped and did not take back when it should have: their frames stay taken until it does.
//!
//! Nothing is entered for such a page, but the guest may reach its frame; given back, the frame could be zeroed under
//! the guest's writes. So whoever next has to do with the page asks the host again first.

use std::{io, ops::Range};

use mmu_notifier::{
    AddressRange,
    sync::{Mutex, Tally, lock},
};

use super::{FaultError, Mm, bytes_of};
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

    /// The 2 MiB ranges of those that have a page in `range`.
    fn blocks_in(&self, range: AddressRange) -> Vec<Gfn> {
        let concerned = |pages: &&Range<Gfn>| bytes_of(pages).is_some_and(|bytes| bytes.overlaps(range));
        lock(&self.pages).iter().filter(concerned).map(|pages| pages.start.block()).collect()
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

    /// As [`unstick`](Self::unstick), for all that has a page in `range`.
    ///
    /// # Errors
    /// What the host said at the first that it still refuses to take back.
    pub(super) fn unstick_all(&self, range: AddressRange) -> io::Result<()> {
        for block in self.stuck.blocks_in(range) {
            let freed = self.lock_entries(block).and_then(|pt| self.unstick(&pt));
            freed.map_err(|error| match error {
                FaultError::Stuck { source, .. } => source,
                error => io::Error::other(error),
            })?;
        }
        Ok(())
    }
}
