//! A small guest RAM: three blocks of 2 MiB and a tail of some base pages.

use std::sync::Arc;

use guest_mem::{
    BLOCK_PAGES, FaultAround, Gfn, Mm, MmConfig, PageSize, Pfn,
    folio::{FolioRef, FrameTable},
    pgtable::Frames,
    pool::{FramePool, PoolConfig, PoolMemory},
    vma::HugePolicy,
};
use mmu_notifier::{AddressRange, PAGE_SIZE};

/// Where it begins.
pub(crate) const BASE: u64 = 4 << 30;
/// Its pages of 4 KiB.
pub(crate) const PAGES: u64 = 3 * BLOCK_PAGES + 6;

pub(crate) fn mm(huge: HugePolicy, around: FaultAround) -> Arc<Mm> {
    let capacity = format!("{}M", 4 * 2).parse().unwrap();
    let pool = FramePool::new(&PoolConfig::new(PoolMemory::None, capacity)).unwrap();
    let mut config = MmConfig::new(pages(0, PAGES));
    config.flags.huge = huge;
    config.around = around;
    Mm::modelled(&config, &pool).unwrap()
}

/// The guest-physical range of `count` pages from page `first` on, as far as the RAM goes.
pub(crate) fn pages(first: u64, count: u64) -> AddressRange {
    let end = (first + count).min(PAGES);
    AddressRange::new(BASE + first * PAGE_SIZE, (end - first) * PAGE_SIZE).unwrap()
}

pub(crate) fn address(page: u64) -> u64 {
    BASE + page * PAGE_SIZE
}

pub(crate) fn gfn(page: u64) -> Gfn {
    Gfn::of(address(page))
}

/// The place of a frame in the RAM: the Mm has one linear stretch.
pub(crate) fn place(mm: &Mm, frame: Pfn) -> usize {
    usize::try_from(frame.index() - mm.stretch().start().index()).unwrap()
}

/// Where devices get references to frames.
#[derive(Clone, Copy)]
pub(crate) struct Folios<'t>(pub(crate) &'t FrameTable);

impl<'t> Frames for Folios<'t> {
    type Ref = FolioRef<'t>;

    fn try_get(self, pfn: Pfn, size: PageSize) -> Option<FolioRef<'t>> {
        self.0.try_get(pfn.index(), size)
    }
}
