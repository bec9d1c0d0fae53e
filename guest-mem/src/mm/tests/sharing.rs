//! Two address spaces that show one memory.

mod filled;
mod history;
mod naive;

use std::sync::Mutex;

use mmu_notifier::{Event, Invalidation, Subscriber, WouldBlock, sync::lock};

use super::*;
use crate::{
    BLOCK_PAGES, BLOCK_SIZE, FaultAround, PageSize,
    mm::{SharedMemory, Shrunk},
    pool::Commitment,
    vma::{HugePolicy, VmaChange, VmaFlags},
};

/// Two 2 MiB ranges.
const COUNT: u64 = 2 * BLOCK_PAGES;

/// A memory, and address spaces that show all of it.
struct Shared {
    pool: Arc<FramePool>,
    memory: SharedMemory,
    mms: [Arc<Mm>; 2],
}

impl Shared {
    fn new(memory: PoolMemory, filler: Option<Arc<dyn Filler>>, huge: [HugePolicy; 2]) -> Self {
        let pool = FramePool::new(&PoolConfig::new(memory, "8M".parse().unwrap())).unwrap();
        let size = "4M".parse().unwrap();
        let memory = SharedMemory::new(&pool, size, Commitment::Overcommitted, filler).unwrap();
        let mms = huge.map(|huge| {
            let flags = VmaFlags { writable: true, huge, ..VmaFlags::default() };
            let config = MmConfig { flags, around: FaultAround::OFF, ..MmConfig::new(pages(0, COUNT)) };
            Mm::modelled_on(&config, &memory).unwrap()
        });
        Self { pool, memory, mms }
    }

    fn of_base_pages() -> Self {
        Self::new(PoolMemory::Shmem, None, [HugePolicy::Never; 2])
    }

    fn touch(&self, mm: usize, page: u64) {
        self.mms[mm].touch(gfn(page).address(), true).unwrap();
    }

    /// How often the frame of `page` is mapped, and how many references there are to its folio.
    #[track_caller]
    fn counts(&self, page: u64) -> (u32, u32) {
        let folio = self.pool.folios().find(self.mms[0].frame(gfn(page)).index()).unwrap();
        (folio.mapcount(gfn(page).in_block()), folio.references())
    }

    fn is_mapped(&self, mm: usize, page: u64) -> bool {
        self.mms[mm].page_table().walk(gfn(page)).is_present()
    }

    fn used(&self) -> u64 {
        self.memory.report().used
    }

    fn end(self) {
        let Self { pool, memory, mms } = self;
        drop(mms);
        drop(memory);
        pool.assert_all_free();
        assert_eq!(pool.folios().in_use(0..pool.frames()).count(), 0);
    }
}

#[test]
fn the_second_to_touch_a_page_finds_what_the_first_has_written() {
    let shared = Shared::of_base_pages();
    shared.touch(0, 7);
    write(&shared.mms[0], gfn(7), 77);

    shared.touch(1, 7);

    assert_eq!(read(&shared.mms[1], gfn(7)), [77; 2]);
    assert_eq!(shared.counts(7), (2, 3), "two entries, and the memory's own");
    assert_eq!(shared.used(), 1);
    for mm in &shared.mms {
        assert_eq!((mm.report().usage.base_bytes, mm.report().usage.pss_bytes), (PAGE_SIZE, PAGE_SIZE / 2));
        assert_eq!(mm.report().usage.pinned_bytes, 0);
    }
    shared.end();
}

#[test]
fn a_folio_is_mapped_huge_by_one_and_in_pages_by_the_other() {
    let shared = Shared::new(PoolMemory::Shmem, None, [HugePolicy::Always, HugePolicy::Never]);
    shared.touch(0, 3);
    shared.touch(1, 4);
    shared.touch(1, 5);

    let [huge, base] = shared.mms.each_ref().map(|mm| mm.page_table().mapped());
    assert_eq!(((huge.huge, huge.base), (base.huge, base.base)), ((1, 0), (0, 2)));
    assert_eq!([3, 4, 5].map(|page| shared.counts(page)), [(1, 4), (2, 4), (2, 4)]);
    let folio = shared.pool.folios().find(shared.mms[0].frame(gfn(0)).index()).unwrap();
    assert_eq!((folio.size(), folio.total_mapcount(), folio.largest_mapcount()), (PageSize::Huge, 3, 2));
    let [huge, base] = shared.mms.each_ref().map(|mm| mm.report().usage.pss_bytes);
    assert_eq!((huge, base), (BLOCK_SIZE - PAGE_SIZE, PAGE_SIZE));

    shared.mms[0].dont_need(shared.mms[0].range()).unwrap();

    assert_eq!([3, 4].map(|page| shared.counts(page)), [(0, 3), (1, 3)]);
    shared.end();
}

#[test]
fn where_others_have_pages_no_huge_page_comes() {
    let shared = Shared::new(PoolMemory::Shmem, None, [HugePolicy::Always, HugePolicy::Never]);
    shared.touch(1, 4);
    shared.touch(0, 4);
    shared.touch(0, 5);

    assert_eq!(shared.mms[0].page_table().mapped().base, 2);
    assert_eq!([4, 5].map(|page| shared.counts(page)), [(2, 3), (1, 2)]);
    shared.end();
}

#[test]
fn what_one_does_not_need_the_other_keeps_and_the_first_finds_again() {
    let shared = Shared::of_base_pages();
    shared.touch(0, 1);
    write(&shared.mms[0], gfn(1), 11);
    shared.touch(1, 1);

    shared.mms[0].dont_need(pages(0, COUNT)).unwrap();
    assert_eq!([0, 1].map(|mm| shared.is_mapped(mm, 1)), [false, true]);
    shared.mms[1].dont_need(pages(1, 1)).unwrap();
    assert_eq!((shared.counts(1), shared.used()), ((0, 1), 1), "nobody maps it, and it is there");

    shared.touch(0, 1);
    assert_eq!(read(&shared.mms[0], gfn(1)), [11; 2]);
    shared.end();
}

/// Notes what it is told, and how many frames were taken then.
#[derive(Debug)]
struct Told {
    pool: Arc<FramePool>,
    log: Mutex<Vec<(&'static str, AddressRange, u64)>>,
    refuses: bool,
}

impl Told {
    fn note(&self, what: &'static str, range: AddressRange) {
        lock(&self.log).push((what, range, self.pool.report().usage.used));
    }
}

impl Subscriber for Told {
    fn name(&self) -> &'static str {
        "told"
    }

    fn invalidate_range_start(&self, invalidation: &Invalidation) -> Result<(), WouldBlock> {
        if self.refuses {
            invalidation.may_block()?;
        }
        assert_eq!(invalidation.event(), Event::Clear);
        self.note("start", invalidation.range());
        Ok(())
    }

    fn invalidate_range_end(&self, invalidation: &Invalidation) {
        self.note("end", invalidation.range());
    }
}

fn told(shared: &Shared, mm: usize, refuses: bool) -> Arc<Told> {
    let told = Arc::new(Told { pool: Arc::clone(&shared.pool), log: Mutex::default(), refuses });
    shared.mms[mm].owner().register(Arc::clone(&told) as Arc<dyn Subscriber>).unwrap();
    told
}

#[test]
fn a_discard_by_one_is_announced_to_both_and_frees_the_frame_after_that() {
    let shared = Shared::of_base_pages();
    for page in [1, 2] {
        shared.touch(0, page);
        write(&shared.mms[0], gfn(page), 11);
    }
    shared.touch(1, 1);
    let told = [0, 1].map(|mm| told(&shared, mm, false));

    let discarded = shared.mms[0].discard(pages(1, 4)).unwrap();

    assert_eq!((discarded.freed_bytes, discarded.pinned_bytes), (4 * PAGE_SIZE, 0));
    let expected = vec![("start", pages(1, 4), 2), ("end", pages(1, 4), 2)];
    assert_eq!(told.map(|told| lock(&told.log).clone()), [expected.clone(), expected]);
    assert_eq!(shared.used(), 0);
    assert!(!shared.is_mapped(0, 1) && !shared.is_mapped(1, 1));
    shared.touch(1, 1);
    shared.touch(0, 1);
    assert_eq!(read(&shared.mms[0], gfn(1)), [0; 2]);
    shared.end();
}

#[test]
fn what_is_pinned_through_one_is_not_discarded_by_the_other() {
    let shared = Shared::of_base_pages();
    shared.touch(1, 1);
    write(&shared.mms[1], gfn(1), 11);
    let pin = shared.mms[1].page_table().pin(pages(1, 1), true, shared.mms[1].folios()).unwrap();
    assert_eq!(shared.mms[1].report().usage.pinned_bytes, PAGE_SIZE);

    let discarded = shared.mms[0].discard(pages(0, 4)).unwrap();

    assert_eq!((discarded.freed_bytes, discarded.pinned_bytes), (3 * PAGE_SIZE, PAGE_SIZE));
    shared.touch(0, 1);
    assert_eq!(read(&shared.mms[0], gfn(1)), [11; 2]);
    drop(pin);
    assert_eq!(shared.memory.remove(AddressRange::new(0, 4 * PAGE_SIZE).unwrap()).unwrap().pinned_bytes, 0);
    shared.end();
}

#[test]
fn a_part_of_a_huge_page_is_zeroed_for_both_and_freed_with_the_last_part() {
    let shared = Shared::new(PoolMemory::Shmem, None, [HugePolicy::Always; 2]);
    for (mm, page) in [(0, 0), (1, 1)] {
        shared.touch(mm, page);
        write(&shared.mms[mm], gfn(page), 7);
    }

    let first = shared.mms[1].discard(pages(0, 1)).unwrap();

    assert_eq!((first.freed_bytes, first.zeroed_bytes), (0, PAGE_SIZE));
    shared.touch(0, 0);
    assert_eq!([0, 1].map(|page| read(&shared.mms[0], gfn(page))), [[0; 2], [7; 2]]);
    let rest = shared.mms[0].discard(pages(1, BLOCK_PAGES - 1)).unwrap();
    assert_eq!(rest.zeroed_bytes, (BLOCK_PAGES - 1) * PAGE_SIZE);
    assert_eq!(shared.used(), 0, "all of it was discarded");
    shared.end();
}

#[test]
fn an_address_space_that_ends_leaves_the_other_what_it_has() {
    for first in [0, 1] {
        let shared = Shared::of_base_pages();
        shared.touch(0, 1);
        shared.touch(1, 1);
        write(&shared.mms[0], gfn(1), 11);
        let Shared { pool, memory, mms } = shared;
        drop(memory);
        let [one, other] = mms;
        let (gone, left) = if first == 0 { (one, other) } else { (other, one) };

        drop(gone);

        assert_eq!(read(&left, gfn(1)), [11; 2]);
        assert_eq!(left.report().usage.pss_bytes, PAGE_SIZE);
        left.discard(pages(0, 2)).unwrap();
        left.touch(gfn(1).address(), false).unwrap();
        assert_eq!(read(&left, gfn(1)), [0; 2]);
        drop(left);
        pool.assert_all_free();
    }
}

#[test]
fn what_was_written_by_nobody_goes_from_both_in_a_shrink() {
    let shared = Shared::of_base_pages();
    for mm in [0, 1] {
        for page in [1, 2, 600] {
            shared.touch(mm, page);
        }
    }
    write(&shared.mms[1], gfn(2), 5);

    let shrunk = shared.mms[0].shrink(u64::MAX);

    let expected = Shrunk { freed_bytes: 2 * PAGE_SIZE, needed_bytes: PAGE_SIZE, ..Shrunk::default() };
    assert_eq!((shrunk, shared.used()), (expected, 1));
    assert_eq!(
        [0, 1].map(|mm| [1, 2, 600].map(|page| shared.is_mapped(mm, page))),
        [[false, true, false]; 2]
    );
    shared.end();
}

#[test]
fn a_subscriber_of_either_that_would_sleep_keeps_a_page_from_a_shrink() {
    let shared = Shared::of_base_pages();
    shared.touch(0, 1);
    let _told = told(&shared, 1, true);

    let shrunk = shared.mms[0].shrink(u64::MAX);

    assert_eq!(shrunk, Shrunk { busy_bytes: PAGE_SIZE, ..Shrunk::default() });
    assert_eq!(shared.used(), 1);
    shared.end();
}

#[test]
fn what_one_has_written_and_nobody_has_collected_stays_in_a_shrink() {
    let shared = Shared::of_base_pages();
    shared.mms[1].modify(pages(0, COUNT), &VmaChange::DirtyTracked(true)).unwrap();
    shared.touch(0, 1);
    shared.touch(1, 1);

    assert_eq!(shared.mms[0].shrink(u64::MAX).needed_bytes, PAGE_SIZE);
    assert_eq!(shared.mms[1].dirty_pages(pages(0, COUNT), true).unwrap(), [gfn(1)]);
    assert_eq!(shared.mms[0].shrink(u64::MAX).freed_bytes, PAGE_SIZE);
    shared.end();
}

#[test]
fn whoever_tracks_writes_is_told_of_its_own_and_of_what_is_removed() {
    let shared = Shared::of_base_pages();
    shared.mms[1].modify(pages(0, COUNT), &VmaChange::DirtyTracked(true)).unwrap();
    for page in [1, 2, 3] {
        shared.touch(0, page);
        shared.mms[1].touch(gfn(page).address(), false).unwrap();
    }
    shared.touch(1, 2);

    shared.mms[1].dont_need(pages(0, COUNT)).unwrap();
    shared.mms[0].discard(pages(3, 2)).unwrap();

    assert_eq!(shared.mms[1].dirty_pages(pages(0, COUNT), true).unwrap(), [gfn(2), gfn(3)]);
    assert_eq!(shared.mms[1].dirty_pages(pages(0, COUNT), true).unwrap(), []);
    shared.end();
}

#[test]
fn an_address_space_is_not_larger_than_the_memory_that_it_shows() {
    let shared = Shared::of_base_pages();

    let refused = Mm::modelled_on(&MmConfig::new(pages(0, COUNT + 1)), &shared.memory);

    assert!(matches!(refused, Err(crate::CreateMmError::Beyond { bytes: 0x40_0000, .. })), "{refused:?}");
    shared.end();
}
