//! Half-open, page-aligned ranges of an address space.

use std::fmt;

/// Size and alignment in bytes of the smallest unit that can be announced: a 4 KiB page.
pub const PAGE_SIZE: u64 = 4096;

/// A range of addresses `[start, end)`, in bytes: never empty, both ends multiples of [`PAGE_SIZE`].
///
/// Holding one tells you that its length is at least one page and that no address in it wraps. For guest RAM the
/// addresses are guest-physical; the type itself does not care whose they are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressRange {
    start: u64,
    end: u64,
}

/// Why an [`AddressRange`] could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The range holds no byte.
    #[error("the range at {start:#x} is empty; give at least one page of {PAGE_SIZE} bytes")]
    Empty {
        /// Where the range was to start.
        start: u64,
    },
    /// The start is not a multiple of [`PAGE_SIZE`].
    #[error("the start {start:#x} is not a multiple of the page size {PAGE_SIZE}")]
    UnalignedStart {
        /// Where the range was to start.
        start: u64,
    },
    /// The length is not a multiple of [`PAGE_SIZE`].
    #[error("the length {len:#x} is not a multiple of the page size {PAGE_SIZE}")]
    UnalignedLength {
        /// How many bytes the range was to hold.
        len: u64,
    },
    /// `start + len` does not fit in 64 bits.
    #[error("a range of {len:#x} bytes at {start:#x} wraps around the end of the address space")]
    Wraps {
        /// Where the range was to start.
        start: u64,
        /// How many bytes the range was to hold.
        len: u64,
    },
}

impl AddressRange {
    /// Every address but those of the last page, which no half-open range of 64-bit ends can hold.
    pub const ALL: Self = Self { start: 0, end: u64::MAX - (PAGE_SIZE - 1) };

    /// The range of `len` bytes that starts at `start`.
    ///
    /// # Errors
    /// [`RangeError`] when it would be empty, unaligned, or wrap.
    pub const fn new(start: u64, len: u64) -> Result<Self, RangeError> {
        if len == 0 {
            return Err(RangeError::Empty { start });
        }
        if !start.is_multiple_of(PAGE_SIZE) {
            return Err(RangeError::UnalignedStart { start });
        }
        if !len.is_multiple_of(PAGE_SIZE) {
            return Err(RangeError::UnalignedLength { len });
        }
        match start.checked_add(len) {
            Some(end) => Ok(Self { start, end }),
            None => Err(RangeError::Wraps { start, len }),
        }
    }

    /// The first address, in bytes; a multiple of [`PAGE_SIZE`].
    #[must_use]
    pub const fn start(self) -> u64 {
        self.start
    }

    /// The address after the last, in bytes; a multiple of [`PAGE_SIZE`], greater than [`start`](Self::start).
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// The number of bytes: never zero, a multiple of [`PAGE_SIZE`].
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// The number of 4 KiB pages: never zero.
    #[must_use]
    pub const fn pages(self) -> u64 {
        self.len() / PAGE_SIZE
    }

    /// Whether `address` lies in the range.
    #[must_use]
    pub const fn contains(self, address: u64) -> bool {
        self.start <= address && address < self.end
    }

    /// Whether every address of `other` lies in the range.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Whether the two ranges have an address in common; ranges that merely touch do not.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The smallest range that covers both.
    #[must_use]
    pub fn hull(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// What the two ranges have in common, if anything.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        self.overlaps(other)
            .then(|| Self { start: self.start.max(other.start), end: self.end.min(other.end) })
    }
}

impl fmt::Debug for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}, {:#x})", self.start, self.end)
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start_page: u64, pages: u64) -> AddressRange {
        AddressRange::new(start_page * PAGE_SIZE, pages * PAGE_SIZE).unwrap()
    }

    #[test]
    fn each_bad_input_has_its_own_error() {
        assert_eq!(AddressRange::new(0, 0), Err(RangeError::Empty { start: 0 }));
        assert_eq!(AddressRange::new(1, 4096), Err(RangeError::UnalignedStart { start: 1 }));
        assert_eq!(AddressRange::new(0, 4097), Err(RangeError::UnalignedLength { len: 4097 }));
        let (start, len) = (u64::MAX - 4095, 4096);
        assert_eq!(AddressRange::new(start, len), Err(RangeError::Wraps { start, len }));
    }

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        assert!(!range(0, 2).overlaps(range(2, 2)));
        assert_eq!(range(0, 2).intersection(range(2, 2)), None);
    }

    proptest! {
        /// Against the naive model: the set of pages.
        #[test]
        fn agrees_with_sets_of_pages(a in 0_u64..12, n in 1_u64..8, b in 0_u64..12, m in 1_u64..8) {
            let (x, y) = (range(a, n), range(b, m));
            let pages = |r: AddressRange| (0_u64..32).filter(move |p| r.contains(p * PAGE_SIZE)).collect::<Vec<_>>();
            let common: Vec<_> = pages(x).into_iter().filter(|p| pages(y).contains(p)).collect();

            prop_assert_eq!(pages(x).len() as u64, x.pages());
            prop_assert_eq!(x.overlaps(y), !common.is_empty());
            prop_assert_eq!(x.covers(y), common == pages(y));
            prop_assert!(x.hull(y).covers(x) && x.hull(y).covers(y));
            prop_assert_eq!(x.hull(y).len(), x.end().max(y.end()) - x.start().min(y.start()));
            prop_assert_eq!(x.intersection(y).map_or(Vec::new(), pages), common);
        }
    }
}
