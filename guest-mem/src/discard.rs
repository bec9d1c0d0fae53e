//! Taking pages away from a guest.

use std::io;
use std::ops::Range;

use mmu_notifier::{AddressRange, Event, Invalidation, Subscriptions};

/// What a discard did; the three add up to the length of the range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Discarded {
    /// Bytes of the range that were handed back to the kernel as whole pages, whether they were resident or not.
    pub freed_bytes: u64,
    /// Bytes of the range that belong to huge pages which reach beyond it: those pages stay, with zeros here.
    pub zeroed_bytes: u64,
    /// Bytes of the range that were left as they are, because a device has pinned their pages.
    pub pinned_bytes: u64,
}

/// Why a range of guest RAM was not discarded.
#[derive(Debug, thiserror::Error)]
pub enum DiscardError {
    /// The range is not all in the RAM; nothing was done.
    #[error("cannot discard {range}: the guest RAM is {ram}")]
    OutOfRange {
        /// What was to be discarded, in guest-physical bytes.
        range: AddressRange,
        /// Where the RAM is.
        ram: AddressRange,
    },
    /// The kernel refused; part of the range may have been discarded.
    #[error("the kernel did not discard {range} of guest RAM")]
    Refused {
        /// What was to be discarded, in guest-physical bytes.
        range: AddressRange,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The range was discarded, but its huge pages could not be reserved again: another process took them, or a
    /// device still holds them.
    ///
    /// Until pages are free again, a touch of the range fails: SIGBUS for this process, a failed run for a vCPU.
    #[error(
        "{range} was discarded, but its huge pages are lost: another process took them, or a device still holds them"
    )]
    ReservationLost {
        /// What was discarded, in guest-physical bytes.
        range: AddressRange,
        /// What reserving them again said.
        #[source]
        source: io::Error,
    },
    /// The kernel took the pages away but put none in their place, and before that could be mended somebody else in
    /// this process mapped something there, or there was no memory for it.
    ///
    /// Stop the guest at once: its memory slot still covers the addresses, which may be another's. This RAM can no
    /// longer be used: its view refuses every access, and dropping it unmaps nothing.
    #[error(
        "guest RAM is lost at {range}: stop the guest, its memory may be somebody else's now; this process is out of memory or of mappings (vm.max_map_count)"
    )]
    RamLost {
        /// What was to be discarded, in guest-physical bytes.
        range: AddressRange,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Why whole pages are not as a discard leaves them.
#[derive(Debug)]
pub(crate) enum FreeError {
    /// The kernel refused to free them, or some of them.
    Refused(io::Error),
    /// They are free, but nobody promises that they can be had again.
    ReservationLost(io::Error),
    /// The addresses of the pages are no longer the RAM's.
    RamLost(io::Error),
}

/// The memory under a discard; offsets are bytes from the start of the RAM.
pub(crate) trait Zap {
    /// Frees the whole pages that are in `range`; they can be had again.
    fn free(&self, range: Range<u64>) -> Result<(), FreeError>;
    /// Whether the page that begins at `page` is there.
    fn is_present(&self, page: u64) -> io::Result<bool>;
    /// Writes zeros over `range`, which is part of one page that is there.
    fn zero(&self, range: Range<u64>) -> io::Result<()>;
}

/// Discards `range` of the RAM at `ram`, whose pages have `page` bytes, and announces it to the subscribers of `owner`.
pub(crate) fn discard(
    owner: &Subscriptions,
    ram: AddressRange,
    memory: &impl Zap,
    page: u64,
    range: AddressRange,
) -> Result<Discarded, DiscardError> {
    if !ram.covers(range) {
        return Err(DiscardError::OutOfRange { range, ram });
    }
    let start = range.start() - ram.start();
    let parts = Parts::of(start..start + range.len(), page);

    // Until after the last page has gone, also when that fails half-way.
    let _invalidation = owner.invalidate_range_start(owner.exempt(), Invalidation::new(range, Event::Clear));
    let refused = |source| DiscardError::Refused { range, source };
    for edge in parts.edges() {
        // A page is never made only to be zeroed: one that is not there reads as zeros already.
        if memory.is_present(edge.start / page * page).map_err(refused)? {
            memory.zero(edge).map_err(refused)?;
        }
    }
    if !parts.whole.is_empty() {
        memory.free(parts.whole.clone()).map_err(|error| match error {
            FreeError::Refused(source) => refused(source),
            FreeError::ReservationLost(source) => DiscardError::ReservationLost { range, source },
            FreeError::RamLost(source) => DiscardError::RamLost { range, source },
        })?;
    }
    let freed_bytes = parts.whole.end - parts.whole.start;
    Ok(Discarded { freed_bytes, zeroed_bytes: range.len() - freed_bytes, pinned_bytes: 0 })
}

/// A range of bytes as pages see it: whole ones, and what is left of the page before and of the page after.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    head: Range<u64>,
    whole: Range<u64>,
    tail: Range<u64>,
}

impl Parts {
    /// Cuts `range` at multiples of `page`. A range within one page that is not all of it is a head and no more.
    fn of(range: Range<u64>, page: u64) -> Self {
        let head_end = range.start.next_multiple_of(page).min(range.end);
        let tail_start = (range.end / page * page).max(head_end);
        Self { head: range.start..head_end, whole: head_end..tail_start, tail: tail_start..range.end }
    }

    /// The parts that are no whole page, as far as there are any.
    fn edges(&self) -> impl Iterator<Item = Range<u64>> {
        [self.head.clone(), self.tail.clone()].into_iter().filter(|edge| !edge.is_empty())
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
