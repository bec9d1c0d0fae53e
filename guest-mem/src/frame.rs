//! Numbers of frames and of guest pages, and the two sizes that page-table entries map.

use std::fmt;

use mmu_notifier::{AddressRange, PAGE_SIZE};

/// Base pages in a huge page: what one entry above the lowest page-table level maps.
pub const BLOCK_PAGES: u64 = 512;
/// Bytes in a huge page.
pub const BLOCK_SIZE: u64 = BLOCK_PAGES * PAGE_SIZE;

/// [`BLOCK_PAGES`], for arrays.
pub(crate) const PAGES: usize = 512;
/// Bytes in a base page, for buffers.
pub(crate) const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGES as u64 == BLOCK_PAGES && PAGE_BYTES as u64 == PAGE_SIZE);

/// Bits of a [`Pfn`] below the pool's number: 2^36 frames are 256 TiB.
const INDEX_BITS: u32 = 36;

/// A frame of 4 KiB: which pool's, and its place in the pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pfn(u64);

/// A page of 4 KiB as the guest counts them: its guest-physical address divided by 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gfn(u64);

/// What one page-table entry maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSize {
    /// 4 KiB.
    Base,
    /// 2 MiB.
    Huge,
}

impl Pfn {
    /// Frames that a pool can have at most.
    pub const MAX_FRAMES: u64 = 1 << INDEX_BITS;

    /// The frame `index` of the pool numbered `pool`.
    ///
    /// `index` is below [`MAX_FRAMES`](Self::MAX_FRAMES): what is above is cut off.
    #[must_use]
    pub const fn new(pool: u16, index: u64) -> Self {
        Self((pool as u64) << INDEX_BITS | (index & (Self::MAX_FRAMES - 1)))
    }

    /// The frame that [`bits`](Self::bits) stood for.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The frame as a number of at most 52 bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The number of the pool.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "what lies above the index is a pool's number and no more"
    )]
    pub const fn pool(self) -> u16 {
        (self.0 >> INDEX_BITS) as u16
    }

    /// The frame's place in its pool, in frames.
    #[must_use]
    pub const fn index(self) -> u64 {
        self.0 & (Self::MAX_FRAMES - 1)
    }

    /// The frame's first byte in its pool.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.index() * PAGE_SIZE
    }

    /// The frame's place in its 2 MiB block, from 0 to 511.
    #[must_use]
    pub const fn in_block(self) -> usize {
        (self.0 % BLOCK_PAGES) as usize
    }

    /// The first frame of this frame's 2 MiB block.
    #[must_use]
    pub const fn block(self) -> Self {
        Self(self.0 - self.0 % BLOCK_PAGES)
    }

    /// The frame `count` further on; both are in one pool.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:#x}", self.pool(), self.index())
    }
}

impl Gfn {
    /// The page numbered `number`.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The page that the guest-physical `address` lies in.
    #[must_use]
    pub const fn of(address: u64) -> Self {
        Self(address / PAGE_SIZE)
    }

    /// The page's number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The guest-physical address of the page's first byte.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.0 * PAGE_SIZE
    }

    /// The page's place in its 2 MiB range, from 0 to 511.
    #[must_use]
    pub const fn in_block(self) -> usize {
        (self.0 % BLOCK_PAGES) as usize
    }

    /// The first page of this page's 2 MiB range.
    #[must_use]
    pub const fn block(self) -> Self {
        Self(self.0 - self.0 % BLOCK_PAGES)
    }

    /// The page `count` further on.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }

    /// The pages of `range`, in order.
    pub fn all_of(range: AddressRange) -> impl DoubleEndedIterator<Item = Self> {
        (range.start() / PAGE_SIZE..range.end() / PAGE_SIZE).map(Self)
    }
}

impl PageSize {
    /// Base pages in it.
    #[must_use]
    pub const fn pages(self) -> u64 {
        match self {
            Self::Base => 1,
            Self::Huge => BLOCK_PAGES,
        }
    }

    /// Bytes in it.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.pages() * PAGE_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_keeps_its_pool_and_its_place() {
        let frame = Pfn::new(7, 3 * BLOCK_PAGES + 5);

        assert_eq!((frame.pool(), frame.index(), frame.in_block()), (7, 1541, 5));
        assert_eq!(frame.block(), Pfn::new(7, 1536));
        assert_eq!(Pfn::from_bits(frame.bits()), frame);
        assert_eq!(frame.block().plus(5), frame);
        assert!(Pfn::new(u16::MAX, u64::MAX).bits() < 1 << 52);
    }

    #[test]
    fn a_guest_page_knows_its_address_and_its_block() {
        let page = Gfn::of(0x1_0020_3fff);

        assert_eq!(page.address(), 0x1_0020_3000);
        assert_eq!((page.in_block(), page.block().address()), (3, 0x1_0020_0000));
    }
}
