//! Going through the entries of a range.

use std::{iter, ops::ControlFlow};

use mmu_notifier::AddressRange;

use super::{Entry, PageTable, PtGuard};
use crate::frame::{BLOCK_PAGES, BLOCK_SIZE, Gfn};

impl PageTable {
    /// The entries of `range` that are mapped or migrating, in order and without a lock: each is what it was at some
    /// moment. A huge entry comes once, with the first page of its 2 MiB range.
    ///
    /// Costs little where nothing is mapped, for ranges of terabytes too.
    pub fn entries(&self, range: AddressRange) -> impl Iterator<Item = (Gfn, Entry)> + '_ {
        let range = range.intersection(self.range);
        let (mut next, end) =
            range.map_or((Gfn::new(0), Gfn::new(0)), |range| (Gfn::of(range.start()), Gfn::of(range.end())));
        iter::from_fn(move || {
            while next < end {
                let gfn = next;
                let entry = match self.directory.slot(gfn) {
                    None => {
                        next = self.directory.next_chunk(gfn);
                        continue;
                    }
                    Some(slot) => slot.entry.load(),
                };
                if !entry.is_table() {
                    next = gfn.block().plus(BLOCK_PAGES);
                    if entry.is_none() {
                        continue;
                    }
                    return Some((gfn.block(), entry));
                }
                next = gfn.plus(1);
                // The slot may have changed since.
                let entry = self.walk(gfn);
                if entry.is_huge() {
                    next = gfn.block().plus(BLOCK_PAGES);
                    return Some((gfn.block(), entry));
                }
                if !entry.is_none() {
                    return Some((gfn, entry));
                }
            }
            None
        })
    }

    /// Calls `visit` for each 2 MiB range in which something of `range` was ever mapped, in order, with its lock held and
    /// the part of it that `range` has. One lock at a time; stops when `visit` breaks.
    ///
    /// Empty ones are not passed over: whoever holds the lock of one may be about to map a page there that the guest has
    /// written already.
    pub fn for_each_locked<B>(
        &self,
        range: AddressRange,
        mut visit: impl FnMut(&mut PtGuard<'_>, AddressRange) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let Some(range) = range.intersection(self.range) else { return ControlFlow::Continue(()) };
        let mut next = Gfn::of(range.start());
        while next < Gfn::of(range.end()) {
            let gfn = next;
            next = gfn.block().plus(BLOCK_PAGES);
            let Some(slot) = self.directory.slot(gfn) else {
                next = self.directory.next_chunk(gfn);
                continue;
            };
            let block = AddressRange::new(gfn.block().address(), BLOCK_SIZE).ok();
            if let Some(part) = block.and_then(|block| block.intersection(range)) {
                visit(&mut PtGuard::new(self, slot, gfn.block()), part)?;
            }
        }
        ControlFlow::Continue(())
    }
}
