//! What goes, what stays, and who is told.
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
};

use mmu_notifier::{
    AllLocks, Subscriber, WouldBlock,
    sync::{Mutex, lock},
};

use super::*;
use crate::{
    ByteSize, FaultAround, FaultError, FaultReason, Filler, MmConfig,
    pool::{FramePool, PoolConfig, PoolMemory},
    vma::{HugePolicy, VmaChange},
};

fn range(start: u64, len: u64) -> AddressRange {
    AddressRange::new(start, len).unwrap()
}

fn pages(start: u64, count: u64) -> AddressRange {
    range(start * PAGE_SIZE, count * PAGE_SIZE)
}

fn mm_on(memory: PoolMemory, blocks: u64, budget_pages: Option<u64>) -> Arc<Mm> {
    let size = ByteSize::new(blocks * BLOCK_SIZE).unwrap();
    let budget = budget_pages.map(|pages| ByteSize::new(pages * PAGE_SIZE).unwrap());
    let pool = FramePool::new(&PoolConfig { budget, ..PoolConfig::new(memory, size) }).unwrap();
    let config = MmConfig { around: FaultAround::OFF, ..MmConfig::new(range(0, size.bytes())) };
    Mm::modelled(&config, &pool).unwrap()
}

/// Writes `byte` to the frame of `page`, as the guest would.
fn write(mm: &Mm, page: u64, byte: u8) {
    mm.touch(page * PAGE_SIZE, true).unwrap();
    mm.pool().write(mm.frame(Gfn::new(page)), 17, &[byte]).unwrap();
}

fn read(mm: &Mm, page: u64) -> u8 {
    mm.touch(page * PAGE_SIZE, false).unwrap();
    let mut byte = [0];
    mm.pool().read(mm.frame(Gfn::new(page)), 17, &mut byte).unwrap();
    byte[0]
}

fn mapped(mm: &Mm) -> Vec<u64> {
    mm.page_table().entries(mm.range()).map(|(gfn, _)| gfn.get()).collect()
}

#[test]
fn zeros_go_and_read_as_zeros_again_and_the_rest_stays() {
    let mm = mm_on(PoolMemory::Shmem, 2, None);
    for page in [3, 4, 5, 600] {
        write(&mm, page, u8::from(page == 4));
    }

    let shrunk = mm.shrink(u64::MAX);

    assert_eq!(shrunk, Shrunk { freed_bytes: 3 * PAGE_SIZE, needed_bytes: PAGE_SIZE, ..Shrunk::default() });
    assert_eq!(mapped(&mm), [4]);
    assert_eq!(mm.pool().report().usage.resident, 1);
    assert_eq!([3, 4, 5, 600].map(|page| read(&mm, page)), [0, 1, 0, 0]);
}

#[test]
fn a_huge_page_goes_as_a_whole_or_not_at_all() {
    let mm = mm_on(PoolMemory::Shmem, 2, None);
    mm.modify(mm.range(), &VmaChange::Huge(HugePolicy::Always)).unwrap();
    write(&mm, 100, 0);
    write(&mm, 700, 1);

    let shrunk = mm.shrink(u64::MAX);

    assert_eq!(shrunk, Shrunk { freed_bytes: BLOCK_SIZE, needed_bytes: BLOCK_SIZE, ..Shrunk::default() });
    assert_eq!(mapped(&mm), [512]);
}

#[test]
fn what_is_pinned_stays() {
    let mm = mm_on(PoolMemory::Shmem, 1, None);
    write(&mm, 1, 0);
    write(&mm, 2, 0);
    let pin = mm.page_table().pin(pages(2, 1), true, mm.folios()).unwrap();

    let shrunk = mm.shrink(u64::MAX);

    let expected = Shrunk { freed_bytes: PAGE_SIZE, pinned_bytes: PAGE_SIZE, ..Shrunk::default() };
    assert_eq!((shrunk, mapped(&mm)), (expected, vec![2]));
    drop(pin);
    assert_eq!(mm.shrink(u64::MAX).freed_bytes, PAGE_SIZE);
}

#[test]
fn a_shrink_stops_when_it_has_enough_and_goes_on_there() {
    let mm = mm_on(PoolMemory::None, 4, None);
    for block in 0..4 {
        mm.touch(block * BLOCK_SIZE, true).unwrap();
    }

    assert_eq!(mm.shrink(PAGE_SIZE).freed_bytes, PAGE_SIZE);
    assert_eq!(mapped(&mm), [512, 1024, 1536]);
    mm.touch(0, true).unwrap();
    assert_eq!(mm.shrink(2 * PAGE_SIZE).freed_bytes, 2 * PAGE_SIZE);

    assert_eq!(mapped(&mm), [0, 1536]);
    assert_eq!(mm.shrink(u64::MAX).freed_bytes, 2 * PAGE_SIZE);
}

#[test]
fn a_written_page_stays_until_it_was_collected_where_writes_are_tracked() {
    let mm = mm_on(PoolMemory::Shmem, 1, None);
    mm.modify(mm.range(), &VmaChange::DirtyTracked(true)).unwrap();
    write(&mm, 1, 0);

    assert_eq!(mm.shrink(u64::MAX).needed_bytes, PAGE_SIZE);
    assert_eq!(mm.dirty_pages(mm.range(), true).unwrap(), [Gfn::new(1)]);
    assert_eq!(mm.shrink(u64::MAX).freed_bytes, PAGE_SIZE);
}

/// Fills with sevens, or with zeros behind the first four pages.
struct Sevens;

impl Filler for Sevens {
    fn name(&self) -> &'static str {
        "sevens"
    }

    fn fill(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        bytes.fill(if offset < 4 * PAGE_SIZE { 7 } else { 0 });
        Ok(())
    }
}

#[test]
fn where_there_is_a_filler_what_was_never_written_goes_whatever_it_holds() {
    let size = ByteSize::new(BLOCK_SIZE).unwrap();
    let pool = FramePool::new(&PoolConfig::new(PoolMemory::Shmem, size)).unwrap();
    let mut config = MmConfig { around: FaultAround::OFF, ..MmConfig::new(range(0, size.bytes())) };
    config.filler = Some(Arc::new(Sevens));
    config.flags.dirty_tracked = true;
    let mm = Mm::modelled(&config, &pool).unwrap();
    assert_eq!([0, 1, 2].map(|page| read(&mm, page)), [7; 3]);
    // Zeros that the guest wrote are not what the filler has.
    mm.touch(PAGE_SIZE, true).unwrap();
    mm.pool().write(mm.frame(Gfn::new(1)), 0, &[0; 4096]).unwrap();
    mm.dirty_pages(mm.range(), true).unwrap();

    let shrunk = mm.shrink(u64::MAX);

    assert_eq!((shrunk.freed_bytes, shrunk.needed_bytes), (2 * PAGE_SIZE, PAGE_SIZE));
    assert_eq!([0, 1, 2].map(|page| read(&mm, page)), [7, 0, 7]);
}

#[test]
fn what_the_guest_may_have_written_stays_although_it_may_not_write_any_more() {
    let size = ByteSize::new(BLOCK_SIZE).unwrap();
    let pool = FramePool::new(&PoolConfig::new(PoolMemory::Shmem, size)).unwrap();
    let mut config = MmConfig { around: FaultAround::OFF, ..MmConfig::new(range(0, size.bytes())) };
    config.filler = Some(Arc::new(Sevens));
    config.flags.writable = false;
    let mm = Mm::modelled(&config, &pool).unwrap();
    assert_eq!([0, 9].map(|page| read(&mm, page)), [7, 0]);

    mm.modify(pages(0, 1), &VmaChange::Writable(true)).unwrap();
    mm.modify(pages(0, 1), &VmaChange::Writable(false)).unwrap();

    assert_eq!(mm.shrink(u64::MAX).freed_bytes, PAGE_SIZE);
    assert_eq!(mapped(&mm), [0]);
}

#[test]
fn a_fault_that_finds_no_frame_takes_one_that_nobody_would_miss() {
    let mm = mm_on(PoolMemory::Shmem, 1, Some(4));
    for page in 0..4 {
        write(&mm, page, u8::from(page != 2));
    }

    write(&mm, 100, 1);

    assert_eq!(mapped(&mm), [0, 1, 3, 100]);
    assert_eq!(mm.stats().of(FaultReason::Shrunk), 1);
    mm.touch(101 * PAGE_SIZE, true).unwrap_err();
    assert_eq!([0, 1, 3, 100].map(|page| read(&mm, page)), [1; 4]);
}

#[test]
fn a_frame_that_two_map_stays() {
    let mm = mm_on(PoolMemory::None, 1, None);
    mm.touch(0, true).unwrap();
    let folio = mm.folios().borrow(mm.frame(Gfn::new(0)).index(), crate::PageSize::Base).unwrap();
    folio.get_many(1);
    folio.map_page(0);

    let shrunk = mm.shrink(u64::MAX);

    assert_eq!((shrunk.freed_bytes, mapped(&mm)), (0, vec![0]));
    folio.unmap_page(0);
    drop(folio.put_many(1));
}

/// Holds a translation of every page it knows of, and says so when it has to sleep to give one up.
#[derive(Default)]
struct Mirror {
    state: Mutex<(u32, BTreeSet<u64>)>,
    refuses: AtomicBool,
}

impl Mirror {
    /// Translates what is mapped, unless something goes away at the moment.
    fn translate(&self, mm: &Mm) {
        for gfn in Gfn::all_of(mm.range()) {
            let mut state = lock(&self.state);
            if state.0 == 0 && mm.page_table().walk(gfn).is_present() {
                state.1.insert(gfn.get());
            }
        }
    }
}

impl Subscriber for Mirror {
    fn name(&self) -> &'static str {
        "mirror"
    }

    fn invalidate_range_start(&self, invalidation: &Invalidation) -> Result<(), WouldBlock> {
        if self.refuses.load(SeqCst) {
            invalidation.may_block()?;
        }
        let range = invalidation.range();
        let mut state = lock(&self.state);
        state.0 += 1;
        state.1.retain(|page| !range.contains(page * PAGE_SIZE));
        Ok(())
    }

    fn invalidate_range_end(&self, _: &Invalidation) {
        lock(&self.state).0 -= 1;
    }
}

/// Makes an invalidation last.
struct Slow;

impl Subscriber for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn invalidate_range_start(&self, _: &Invalidation) -> Result<(), WouldBlock> {
        for _ in 0..20 {
            thread::yield_now();
        }
        Ok(())
    }
}

#[test]
fn who_would_have_to_sleep_is_left_alone() {
    let mm = mm_on(PoolMemory::None, 1, None);
    mm.touch(0, true).unwrap();
    let mirror = Arc::new(Mirror::default());
    mm.owner().register(Arc::clone(&mirror) as Arc<dyn Subscriber>).unwrap();
    mirror.refuses.store(true, SeqCst);

    let shrunk = mm.shrink(u64::MAX);

    assert_eq!(shrunk, Shrunk { busy_bytes: PAGE_SIZE, ..Shrunk::default() });
    assert_eq!(mapped(&mm), [0]);
    mirror.refuses.store(false, SeqCst);
    assert_eq!(mm.shrink(u64::MAX).freed_bytes, PAGE_SIZE);
}

/// A guest that writes one page for as long as it can: until the page is zapped.
struct LateWriter(Arc<Mm>);

impl Subscriber for LateWriter {
    fn name(&self) -> &'static str {
        "late writer"
    }

    fn invalidate_range_start(&self, _: &Invalidation) -> Result<(), WouldBlock> {
        self.0.pool().write(self.0.frame(Gfn::new(1)), 0, &[1]).unwrap();
        Ok(())
    }
}

#[test]
fn what_is_written_before_the_zap_stays() {
    let mm = mm_on(PoolMemory::Shmem, 1, None);
    for page in [0, 1, 2] {
        write(&mm, page, 0);
    }
    let writer = mm.owner().register(Arc::new(LateWriter(Arc::clone(&mm)))).unwrap();

    let shrunk = mm.shrink(u64::MAX);

    let expected = Shrunk { freed_bytes: 2 * PAGE_SIZE, needed_bytes: PAGE_SIZE, ..Shrunk::default() };
    assert_eq!((shrunk, mapped(&mm)), (expected, vec![1]));
    mm.owner().unregister(writer).unwrap();
}

/// The shrink holds nothing but the reverse-map lock, and that is enough for registration under all locks.
#[test]
fn registration_under_all_locks_misses_no_shrink() {
    for round in 0..150 {
        let mm = mm_on(PoolMemory::None, 8, None);
        for block in 0..8 {
            for page in 0..4 {
                mm.touch(block * BLOCK_SIZE + page * PAGE_SIZE, true).unwrap();
            }
        }
        mm.owner().register(Arc::new(Slow)).unwrap();
        let mirror = Arc::new(Mirror::default());

        thread::scope(|scope| {
            scope.spawn(|| mm.shrink(u64::MAX));
            for _ in 0..round % 50 {
                thread::yield_now();
            }
            mm.owner()
                .register_by(&AllLocks::new(mm.vmas(), None), Arc::clone(&mirror) as Arc<dyn Subscriber>)
                .unwrap();
            mirror.translate(&mm);
        });

        assert_eq!(mapped(&mm), [0; 0]);
        assert_eq!(*lock(&mirror.state), (0, BTreeSet::new()), "round {round}");
    }
}

/// Shrinks, discards and faults at once: what is left at the end is what was counted.
#[test]
fn shrinks_and_discards_do_not_disturb_each_other() {
    let mm = mm_on(PoolMemory::None, 2, None);

    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..400 {
                for page in 0..8 {
                    // The others may take the page away again and again: a touch gives way then.
                    while let Err(error) = mm.touch((page * 100 + round % 7) * PAGE_SIZE, true) {
                        assert!(matches!(error, FaultError::Contended { .. }), "{error}");
                    }
                }
            }
        });
        scope.spawn(|| {
            for _ in 0..400 {
                mm.shrink(u64::MAX);
            }
        });
        scope.spawn(|| {
            for _ in 0..400 {
                mm.discard(mm.range()).unwrap();
            }
        });
    });

    mm.discard(mm.range()).unwrap();
    let pool = Arc::clone(mm.pool());
    drop(mm);
    pool.assert_all_free();
}
