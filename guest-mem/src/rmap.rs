//! The reverse map: from what is mapped to every address space that maps it.
//!
//! A [`Mapping`] is what VMAs map; VMAs of several address spaces may share one. It keeps a list of its [`Window`]s:
//! which guest range of which address space shows which part of it. Whoever wants to take a frame away finds there
//! every guest page that may have an entry for it (Linux: `i_mmap` of an address_space, walked by `rmap_walk`).
//!
//! **Guarantee.** While the list's lock is held, no guest page gains or loses an entry's right to be found: a window is
//! listed before a fault can find its VMA, and struck off only after its entries were zapped
//! ([`Removed`](crate::vma::Removed)). Splitting or merging VMAs, or changing their flags, moves no page, so it does
//! not touch the list.
//!
//! The list is short, one window for each range that was ever inserted or cut, and a walk looks at all of it.

use std::mem;

use mmu_notifier::{AddressRange, RmapLock, RmapReadGuard};

/// The number of an address space, unique in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MmId(u64);

impl MmId {
    /// The address space numbered `number`.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A guest range of one address space that shows part of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Whose range it is.
    pub mm: MmId,
    /// The guest-physical range, in bytes.
    pub guest: AddressRange,
    /// Where in the mapping the range starts, in bytes; a multiple of 4096.
    pub offset: u64,
}

impl Window {
    /// The part of it that shows `wanted`, a range of the mapping in bytes.
    fn of(&self, wanted: AddressRange) -> Option<Self> {
        let shown = AddressRange::new(self.offset, self.guest.len()).ok()?;
        let both = shown.intersection(wanted)?;
        let start = self.guest.start() + (both.start() - self.offset);
        let guest = AddressRange::new(start, both.len()).ok()?;
        Some(Self { mm: self.mm, guest, offset: both.start() })
    }

    /// Whether both are of one address space and would be one window if their ranges met.
    fn is_in_line_with(&self, other: Self) -> bool {
        let ahead = |window: &Self| window.offset.wrapping_sub(window.guest.start());
        self.mm == other.mm && ahead(self) == ahead(&other)
    }

    /// What of it lies outside of the guest range `gone`: before it, and behind it.
    fn without(&self, gone: AddressRange) -> [Option<Self>; 2] {
        let part = |start: u64, end: u64| {
            let guest = AddressRange::new(start, end.checked_sub(start)?).ok()?;
            Some(Self { mm: self.mm, guest, offset: self.offset + (start - self.guest.start()) })
        };
        [
            part(self.guest.start(), gone.start().min(self.guest.end())),
            part(gone.end().max(self.guest.start()), self.guest.end()),
        ]
    }
}

/// The windows onto one mapping.
#[derive(Debug, Default)]
pub struct Windows(Vec<Window>);

impl Windows {
    /// Who maps `range`, a range of the mapping in bytes: each window that shows some of it, cut to that.
    pub fn showing(&self, range: AddressRange) -> impl Iterator<Item = Window> + '_ {
        self.0.iter().filter_map(move |window| window.of(range))
    }

    /// All windows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Window> {
        self.0.iter()
    }
}

/// What VMAs map, and the list of those who do.
#[derive(Debug, Default)]
pub struct Mapping {
    /// Under the VMA lock and the folio lock, above the page-table lock; several at once only by `take_all_locks`.
    windows: RmapLock<Windows>,
}

impl Mapping {
    /// A mapping that nobody maps yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Who maps it, and nobody begins or ceases to while the guard lives.
    ///
    /// The guard is a witness: an invalidation may run under it alone. Sleeps while an address space changes what it
    /// maps.
    ///
    /// # Panics
    /// In debug builds, when this thread holds a reverse-map lock or a lock under it.
    pub fn windows(&self) -> RmapReadGuard<'_, Windows> {
        self.windows.read()
    }

    /// The lock itself, for `take_all_locks`.
    pub(crate) fn lock(&self) -> &RmapLock<Windows> {
        &self.windows
    }

    /// Lists `window`.
    pub(crate) fn link(&self, window: Window) {
        self.windows.write().0.push(window);
    }

    /// Strikes the guest range of `gone` off the list, out of every window that shows there what `gone` says.
    pub(crate) fn unlink(&self, gone: Window) {
        let mut windows = self.windows.write();
        let left = mem::take(&mut windows.0).into_iter().flat_map(|window| {
            if window.is_in_line_with(gone) { window.without(gone.guest) } else { [Some(window), None] }
        });
        windows.0 = left.flatten().collect();
    }

    /// Strikes every window of `mm` off the list.
    pub(crate) fn unlink_all(&self, mm: MmId) {
        self.windows.write().0.retain(|window| window.mm != mm);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
