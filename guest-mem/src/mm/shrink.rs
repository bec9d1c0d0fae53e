//! Taking frames away that nobody would miss: those that hold zeros, or what the filler can supply again.
//!
//! Nobody asked for this range to go, so it begins with frames, not with an address space: the reverse map of what is
//! mapped says who maps them, and its lock is all that is held. mmap_lock and the VMAs are not touched.
//!
//! ```text
//!   look for pages that could go                 no lock
//!   reverse-map lock, for reading
//!     who maps them?
//!     start                                      it may not sleep: who would have to is left alone
//!       page-table lock
//!         zap; look at the content again         whatever was written before the zap is seen
//!         freeze, mark closed
//!     end
//!       page-table lock: frames back, entries none
//!     wake whoever faulted meanwhile
//! ```
//! While the lock is held nobody comes or goes in the list of those who map; and registration under all locks waits for
//! it, so it misses no shrink that it was not told of.

use std::{io, ops::ControlFlow, ops::Range, sync::TryLockError};

use mmu_notifier::{
    AddressRange, Event, Invalidation, PAGE_SIZE, RmapReadGuard,
    sync::{Mutex, MutexGuard},
};

use super::{Mm, bytes_of, registry};
use crate::{
    BLOCK_SIZE, Gfn,
    pgtable::{Entry, EntryFlags, PtGuard},
    rmap::{Mapping, Windows},
};

/// What came of a shrink, in bytes of what was mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shrunk {
    /// Given back to the pool.
    pub freed_bytes: u64,
    /// Left, because the content is nowhere else; or has not been collected yet, where writes are tracked.
    pub needed_bytes: u64,
    /// Left, because a device has pinned them.
    pub pinned_bytes: u64,
    /// Left, because somebody would have had to be waited for.
    pub busy_bytes: u64,
}

/// Whether a page can go.
enum Verdict {
    Spare,
    Needed,
    Pinned,
}

impl Mm {
    /// Takes pages away that nobody would miss, until `want_bytes` have been given back or all has been looked at once:
    /// pages of zeros, or where there is a [`Filler`](super::Filler), pages that hold what it supplied and that could not
    /// be written since. The next touch finds the same content. Goes on where the last shrink has stopped.
    ///
    /// Subscribers are told, and are left alone if they would have to sleep. May be called where a fault is resolved.
    /// Whoever has memory written by an address that was translated before (direct I/O, a device) holds a
    /// [pin](crate::pgtable::PageTable::pin) meanwhile: such a write does not fault, and would be lost.
    /// Whether the host has the memory then is the pool's to decide ([`PoolConfig`](crate::pool::PoolConfig)).
    pub fn shrink(&self, want_bytes: u64) -> Shrunk {
        if self.object.is_shared() {
            return self.object.shrink(want_bytes);
        }
        let mut shrunk = Shrunk::default();
        let (start, hand) = (self.range.start(), self.range.start() + self.shrink_hand.get());
        let turn = [(hand, self.range.end()), (start, hand)];
        for (mut next, end) in turn {
            while let Some(block) = self.next_mapped_block(next, end) {
                if shrunk.freed_bytes >= want_bytes {
                    self.shrink_hand.set(block.start() - start);
                    return shrunk;
                }
                shrunk.add(self.shrink_block(block));
                next = block.end();
            }
        }
        shrunk
    }

    /// The first 2 MiB range from `next` on, below `end`, in which something is mapped.
    fn next_mapped_block(&self, next: u64, end: u64) -> Option<AddressRange> {
        let range = AddressRange::new(next, end.checked_sub(next)?).ok()?;
        let (gfn, _) = self.table.entries(range).next()?;
        AddressRange::new(gfn.block().address(), BLOCK_SIZE).ok()?.intersection(self.range)
    }

    /// Has whatever this address space maps in `block` taken away from everybody who maps it.
    fn shrink_block(&self, block: AddressRange) -> Shrunk {
        let mut shrunk = Shrunk::default();
        for vma in self.vmas.snapshot().overlapping(block) {
            let shown = vma
                .range
                .intersection(block)
                .and_then(|part| AddressRange::new(vma.offset_of(part.start()), part.len()).ok());
            if let Some(shown) = shown {
                shrunk.add(shrink_mapping(&vma.mapping, shown));
            }
        }
        shrunk
    }

    /// Takes the pages of `range` away that nobody would miss.
    fn shrink_range(&self, rmap: &RmapReadGuard<'_, Windows>, range: AddressRange) -> Shrunk {
        let mut shrunk = Shrunk::default();
        let Some(_alone) = try_lock(&self.closing) else {
            shrunk.busy_bytes = range.len();
            return shrunk;
        };
        // Entries may come meanwhile, but none goes.
        let spare = self.spare_runs(range, &mut shrunk);
        let Some(concerned) = spare.first().zip(spare.last()) else { return shrunk };
        let Some(concerned) = bytes_of(&(concerned.0.start..concerned.1.end)) else { return shrunk };
        let clear = Invalidation::new(concerned, Event::Clear);
        let Ok(invalidation) = self.owner.invalidate_range_start_nonblock(rmap, clear) else {
            shrunk.busy_bytes += bytes(&spare);
            return shrunk;
        };
        let closing: ControlFlow<io::Error> = self.table.for_each_locked(concerned, |pt, part| {
            match self.close_spare(pt, part, &spare, &mut shrunk) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(error),
            }
        });
        drop(invalidation);
        let opened = self.free_closed(concerned);
        let woken = self.wake_opened(&opened);
        if let Err(error) = closing.break_value().map_or(Ok(()), Err).and(woken) {
            log::warn!("not all of {concerned} was looked at for spare frames: {error}");
        }
        shrunk
    }

    /// The pages of `range` that could go as far as one can see while they are mapped, in order; what could not is
    /// counted.
    fn spare_runs(&self, range: AddressRange, shrunk: &mut Shrunk) -> Vec<Range<Gfn>> {
        let mut runs: Vec<Range<Gfn>> = Vec::new();
        for (gfn, entry) in self.table.entries(range) {
            let pages = Self::pages_of(gfn, entry.size());
            // A part of a huge page cannot go.
            if !entry.is_present() || !bytes_of(&pages).is_some_and(|page| range.covers(page)) {
                continue;
            }
            if !shrunk.count(&self.verdict(gfn, entry), entry) {
                continue;
            }
            match runs.last_mut() {
                Some(last) if last.end == pages.start => last.end = pages.end,
                _ => runs.push(pages),
            }
        }
        runs
    }

    /// Zaps what `part` has of `spare`, and closes what still nobody would miss.
    fn close_spare(
        &self,
        pt: &mut PtGuard<'_>,
        part: AddressRange,
        spare: &[Range<Gfn>],
        shrunk: &mut Shrunk,
    ) -> io::Result<()> {
        let (first, end) = (Gfn::of(part.start()), Gfn::of(part.end()));
        for run in spare.iter().filter(|run| run.start < end && first < run.end) {
            let run = run.start.max(first)..run.end.min(end);
            self.install.zap(self.offsets(&run))?;
            let mut next = run.start;
            while next < run.end {
                let gfn = next;
                let entry = pt.entry(gfn);
                next = Self::pages_of(gfn, entry.size()).end;
                if !entry.is_present() || !shrunk.count(&self.verdict(gfn, entry), entry) {
                    continue;
                }
                if self.free_folio(entry) {
                    let _was = pt.replace(gfn, entry.migrating());
                    shrunk.freed_bytes += entry.size().bytes();
                } else {
                    shrunk.pinned_bytes += entry.size().bytes();
                }
            }
        }
        Ok(())
    }

    /// Whether a device holds the folio that `entry` maps.
    pub(super) fn is_pinned(&self, entry: Entry) -> bool {
        let (head, size) = entry.folio();
        self.folios
            .borrow(head.index(), size)
            .is_some_and(|folio| folio.references() != folio.total_mapcount() + self.object.own_references())
    }

    /// Whether the page that `entry` maps at `gfn` can go. True for as long as nobody can write it.
    fn verdict(&self, gfn: Gfn, entry: Entry) -> Verdict {
        if self.is_pinned(entry) {
            return Verdict::Pinned;
        }
        let elsewhere = if self.has_filler() {
            entry.flags().contains(EntryFlags::CLEAN)
        } else {
            self.object.is_zero(&self.frames(&Self::pages_of(gfn, entry.size()))).unwrap_or(false)
        };
        if elsewhere && !self.is_uncollected(gfn, entry) { Verdict::Spare } else { Verdict::Needed }
    }
}

/// Takes what nobody would miss of `range`, a range of `mapping`, away from everybody who maps it.
fn shrink_mapping(mapping: &Mapping, range: AddressRange) -> Shrunk {
    let mut shrunk = Shrunk::default();
    // Outlives the guard: the last owner of an address space takes the lock when it goes.
    let mut looked_at = Vec::new();
    let windows = mapping.windows();
    for window in windows.showing(range) {
        if let Some(mm) = registry::find(window.mm) {
            shrunk.add(mm.shrink_range(&windows, window.guest));
            looked_at.push(mm);
        }
    }
    drop(windows);
    shrunk
}

/// The lock, unless another thread has it.
pub(super) fn try_lock(mutex: &Mutex<()>) -> Option<MutexGuard<'_, ()>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

fn bytes(runs: &[Range<Gfn>]) -> u64 {
    runs.iter().map(|run| (run.end.get() - run.start.get()) * PAGE_SIZE).sum()
}

impl Shrunk {
    pub(super) fn add(&mut self, other: Self) {
        self.freed_bytes += other.freed_bytes;
        self.needed_bytes += other.needed_bytes;
        self.pinned_bytes += other.pinned_bytes;
        self.busy_bytes += other.busy_bytes;
    }

    /// Counts what stays; whether it can go.
    fn count(&mut self, verdict: &Verdict, entry: Entry) -> bool {
        match verdict {
            Verdict::Spare => return true,
            Verdict::Needed => self.needed_bytes += entry.size().bytes(),
            Verdict::Pinned => self.pinned_bytes += entry.size().bytes(),
        }
        false
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
