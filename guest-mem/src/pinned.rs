//! Holding the pages of guest RAM where they are, in both ways to run it, for I/O that the kernel does on its own.
//!
//! O_DIRECT, io_uring and vhost go on with a page's address after the call that gave it to them has returned. A page that
//! was discarded meanwhile would be written behind the guest's back, and where frames are reused, into somebody else's.
//! So the range is pinned for the I/O's life, and a discard leaves it alone and counts it.
//!
//! Managed RAM pins by a reference to each frame ([`PageTable::pin`](crate::pgtable::PageTable::pin)). Where the kernel
//! resolves the faults there are no frames here, and the ranges themselves are kept:
//!
//! ```text
//! pin                                     discard
//! list locked                             list locked
//!   overlaps the discard that runs?         note its range, cut out what is pinned
//!     wait for its end                    list unlocked
//!   add the range                         announce, free what is left
//! list unlocked                           list locked: no discard runs; wake
//!
//! pin first: the discard cuts its range out
//! discard first: the pin waits, and finds pages that are new
//! ```

use std::{
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use mmu_notifier::AddressRange;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, VolatileMemory};

use crate::{
    Gfn, GuestRam, Mm, PageSize, Pfn,
    folio::FolioBorrow,
    pgtable::{Frames, Pin, PinError},
    ram::Resolver,
};

/// How often a page that is on the move is looked at again, and from when on the looks are [`PAUSE`] apart: two seconds.
const TRIES: u32 = 20_000;
const QUICK_TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_micros(100);

/// The pages of a range are not freed, moved or reused until this is dropped.
///
/// It outlives the RAM, if it must, and keeps its frames from being used again; drop it before.
#[derive(Debug)]
#[must_use = "dropping it unpins"]
pub struct RamPin {
    range: AddressRange,
    _held: Held,
}

#[derive(Debug)]
enum Held {
    Range { _entry: Entry },
    Frames { _pin: Pin<OwnedFolio> },
}

/// Why a range could not be pinned; nothing is pinned then.
#[derive(Debug, thiserror::Error)]
pub enum RamPinError {
    /// The range is not all in the RAM.
    #[error("cannot pin {range}: the guest RAM is {ram}")]
    OutOfRange {
        /// What was to be pinned, in guest-physical bytes.
        range: AddressRange,
        /// Where the RAM is.
        ram: AddressRange,
    },
    /// A page of it was being taken away or moved for two seconds.
    #[error("cannot pin {range}")]
    Busy {
        /// What was to be pinned, in guest-physical bytes.
        range: AddressRange,
        /// The page, and what happens to it.
        #[source]
        source: PinError,
    },
    /// A page of it could not be touched.
    #[error("cannot touch {range} to pin it")]
    Touch {
        /// What was to be pinned, in guest-physical bytes.
        range: AddressRange,
        /// What vm-memory said.
        #[source]
        source: GuestMemoryError,
    },
}

impl RamPin {
    /// What is pinned, in guest-physical bytes.
    #[must_use]
    pub const fn range(&self) -> AddressRange {
        self.range
    }
}

impl GuestRam {
    /// Pins the pages of `range`, in guest-physical bytes, for I/O that writes them (`write`) or only reads them. A page
    /// that is missing is made present first, where underlay resolves the faults.
    ///
    /// Waits for a discard that runs and overlaps. So it is not to be called in a callback of a subscriber, nor with a lock
    /// held that such a callback takes.
    ///
    /// # Errors
    /// [`RamPinError`].
    pub fn pin(&self, range: AddressRange, write: bool) -> Result<RamPin, RamPinError> {
        if !self.range.covers(range) {
            return Err(RamPinError::OutOfRange { range, ram: self.range });
        }
        let held = match &self.resolver {
            Resolver::Kernel(_) => Held::Range { _entry: self.pins.add(range) },
            Resolver::Underlay(managed) => {
                Held::Frames { _pin: self.pin_frames(managed.mm(), range, write)? }
            }
        };
        Ok(RamPin { range, _held: held })
    }

    fn pin_frames(
        &self,
        mm: &Arc<Mm>,
        range: AddressRange,
        write: bool,
    ) -> Result<Pin<OwnedFolio>, RamPinError> {
        let mut tries = 0;
        loop {
            let error = match mm.page_table().pin(range, write, OwnedFrames(mm)) {
                Ok(pin) => return Ok(pin),
                Err(error) => error,
            };
            tries += 1;
            match error {
                PinError::Missing { gfn } | PinError::WriteProtected { gfn } if tries < TRIES => {
                    self.touch(gfn, write).map_err(|source| RamPinError::Touch { range, source })?;
                }
                PinError::Frozen { .. } | PinError::Migrating { .. } if tries < QUICK_TRIES => {
                    thread::yield_now();
                }
                PinError::Frozen { .. } | PinError::Migrating { .. } if tries < TRIES => thread::sleep(PAUSE),
                source => return Err(RamPinError::Busy { range, source }),
            }
        }
    }

    /// Faults on the page `gfn`, as a device that reads or writes it would, and leaves what is there.
    fn touch(&self, gfn: Gfn, write: bool) -> Result<(), GuestMemoryError> {
        let address = GuestAddress(gfn.address());
        if write {
            // One instruction that writes what it read: a guest that writes there meanwhile loses nothing.
            let word = self.view.get_slice(address, 1)?;
            let byte = word.get_atomic_ref::<AtomicU8>(0).map_err(GuestMemoryError::from)?;
            byte.fetch_or(0, Relaxed);
        } else {
            let _read: u8 = self.view.read_obj(address)?;
        }
        Ok(())
    }
}

/// A reference to a folio of an [`Mm`], which it keeps.
#[derive(Debug)]
struct OwnedFolio {
    mm: Arc<Mm>,
    index: u64,
    size: PageSize,
}

/// The frames of an [`Mm`], whose references keep it.
#[derive(Clone, Copy)]
struct OwnedFrames<'m>(&'m Arc<Mm>);

impl Frames for OwnedFrames<'_> {
    type Ref = OwnedFolio;

    fn try_get(self, pfn: Pfn, size: PageSize) -> Option<OwnedFolio> {
        let folio = self.0.folios().try_get(pfn.index(), size)?.leak();
        Some(OwnedFolio { mm: Arc::clone(self.0), index: folio.index(), size })
    }
}

impl Drop for OwnedFolio {
    fn drop(&mut self) {
        // The reference that `try_get` leaked: as long as it is there, the folio is what it was.
        drop(self.mm.folios().borrow(self.index, self.size).map(FolioBorrow::adopt));
    }
}

/// The ranges that are pinned in RAM whose faults the kernel resolves.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    /// A leaf.
    list: Mutex<List>,
    /// Signalled when a discard has ended.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct List {
    pinned: Vec<AddressRange>,
    /// What the discard that runs takes away; there is one at a time.
    discarding: Option<AddressRange>,
}

/// One range in the list.
#[derive(Debug)]
struct Entry {
    pins: Arc<Pins>,
    range: AddressRange,
}

/// A discard runs; no overlapping range is pinned until this is dropped.
#[derive(Debug)]
pub(crate) struct Discarding<'p> {
    pins: &'p Pins,
    /// What it may take away: whole units, and the ends of the range.
    pub(crate) parts: Vec<AddressRange>,
}

impl Pins {
    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(self: &Arc<Self>, range: AddressRange) -> Entry {
        let mut list = self.lock();
        while list.discarding.is_some_and(|discarding| discarding.overlaps(range)) {
            list = self.ended.wait(list).unwrap_or_else(PoisonError::into_inner);
        }
        list.pinned.push(range);
        Entry { pins: Arc::clone(self), range }
    }

    /// Begins the discard of `range`, and says which parts of it nobody has pinned. The caller is the only one.
    pub(crate) fn begin_discard(&self, range: AddressRange) -> Discarding<'_> {
        let mut list = self.lock();
        list.discarding = Some(range);
        let mut pinned: Vec<_> = list.pinned.iter().map(|pinned| pinned.start()..pinned.end()).collect();
        drop(list);
        pinned.sort_unstable_by_key(|pinned| pinned.start);
        Discarding { pins: self, parts: without(range, &pinned) }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut list = self.pins.lock();
        if let Some(place) = list.pinned.iter().position(|range| *range == self.range) {
            list.pinned.swap_remove(place);
        }
    }
}

impl Drop for Discarding<'_> {
    fn drop(&mut self) {
        self.pins.lock().discarding = None;
        self.pins.ended.notify_all();
    }
}

/// What is left of `range` without `taken`, which are in the order of their starts and may overlap.
fn without(range: AddressRange, taken: &[Range<u64>]) -> Vec<AddressRange> {
    let mut left = Vec::with_capacity(1);
    let mut next = range.start();
    let end = Range { start: range.end(), end: range.end() };
    for taken in taken.iter().chain([&end]) {
        let until = taken.start.min(range.end());
        left.extend(until.checked_sub(next).and_then(|len| AddressRange::new(next, len).ok()));
        next = next.max(taken.end);
    }
    left
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
