//! Threads that touch, pin, discard and change one address space, or two that share their memory, all of it at once.
//!
//! Each thread writes only to pages of its own, and only while it has them pinned. So whoever else touches their frames
//! then, by zeroing, filling or reusing them, is caught by what they hold, or by ThreadSanitizer.

use std::thread;

use super::*;
use crate::{
    BLOCK_PAGES, FaultAround,
    mm::{ChangeError, FaultError, SharedMemory},
    pool::Commitment,
    vma::{HugePolicy, VmaChange, VmaFlags},
};

const THREADS: u64 = 4;
/// Two 2 MiB ranges and a part of one.
const COUNT: u64 = 2 * BLOCK_PAGES + 8;
const ROUNDS: u64 = 1000;

/// A thread's numbers, never the same twice in a row.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        // Marsaglia's xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    /// A page, most often one of a few that everybody uses.
    fn page(&mut self) -> u64 {
        if self.below(4) == 0 { self.below(COUNT) } else { self.below(3) * BLOCK_PAGES + self.below(8) }
    }

    fn part(&mut self) -> AddressRange {
        if self.below(4) == 0 {
            return pages(self.below(2) * BLOCK_PAGES, BLOCK_PAGES);
        }
        let start = self.page();
        pages(start, (1 + self.below(5)).min(COUNT - start))
    }

    fn change(&mut self) -> VmaChange {
        let on = self.below(2) == 0;
        match self.below(4) {
            0 => VmaChange::Writable(on),
            1 => VmaChange::DirtyTracked(on),
            2 => VmaChange::Huge(if on { HugePolicy::Always } else { HugePolicy::Never }),
            _ => VmaChange::Name(on.then(|| "heap".into())),
        }
    }
}

/// One thread's part.
struct Worker<'a> {
    mm: &'a Mm,
    number: u64,
    random: Random,
    filled: bool,
    /// What it wrote last to each page of its own.
    last: Vec<u64>,
}

impl Worker<'_> {
    fn run(mut self) {
        for round in 1..=ROUNDS {
            match self.random.below(16) {
                0..6 => self.touch(),
                6..11 => self.use_page(self.number << 56 | round << 32),
                11..13 => drop(self.mm.discard(self.random.part()).unwrap()),
                13 => self.mm.dont_need(self.random.part()).unwrap(),
                14 if round % 3 == 0 => drop(self.mm.shrink(self.random.below(64) * PAGE_SIZE)),
                14 => drop(self.mm.dirty_pages(self.random.part(), round % 2 == 0).unwrap()),
                _ => match self.mm.modify(self.random.part(), &self.random.change()) {
                    Ok(()) | Err(ChangeError::PartOfHugePage { .. }) => {}
                    Err(error) => panic!("{error}"),
                },
            }
        }
    }

    fn touch(&mut self) {
        let write = self.random.below(2) == 0;
        match self.mm.touch(gfn(self.random.page()).address(), write) {
            // A write may be forbidden at the moment, and a page be taken away again and again.
            Ok(()) | Err(FaultError::Contended { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Pins a page of this thread's own and writes it, if it may be written.
    fn use_page(&mut self, stamp: u64) {
        let page = (self.random.page() / THREADS * THREADS + self.number).min(COUNT - THREADS + self.number);
        let address = gfn(page).address();
        let _ = self.mm.touch(address, true);
        let Ok(pin) = self.mm.page_table().pin(pages(page, 1), true, self.mm.folios()) else { return };
        let fresh = if self.filled { page + 1 } else { 0 };
        let last = &mut self.last[usize::try_from(page).unwrap()];

        // Zero where a part of a huge page was discarded.
        let held = read(self.mm, gfn(page));
        assert!([[fresh; 2], [0; 2], [*last; 2]].contains(&held), "{held:x?} in page {page}, not {last:#x}");
        write(self.mm, gfn(page), stamp);
        *last = stamp;
        thread::yield_now();
        assert_eq!(read(self.mm, gfn(page)), [stamp; 2], "page {page} changed while it was pinned");
        drop(pin);
    }
}

fn config(huge: HugePolicy, filler: Option<Arc<dyn Filler>>) -> MmConfig {
    MmConfig {
        flags: VmaFlags { writable: true, huge, ..VmaFlags::default() },
        around: FaultAround { base_bytes: 4 * PAGE_SIZE, ..FaultAround::default() },
        filler,
        ..MmConfig::new(pages(0, COUNT))
    }
}

fn numbers(filled: bool) -> Option<Arc<dyn Filler>> {
    filled.then(|| Arc::<Numbers>::default() as Arc<dyn Filler>)
}

/// Has the threads work on `mms` in turn.
fn work_on(mms: &[Arc<Mm>], filled: bool) {
    thread::scope(|scope| {
        let worker = |number| {
            let last = vec![0; usize::try_from(COUNT).unwrap()];
            let random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number + 1));
            let mm = &mms[usize::try_from(number).unwrap() % mms.len()];
            Worker { mm, number, random, filled, last }
        };
        let workers: Vec<_> = (0..THREADS)
            .map(|number| {
                let worker = worker(number);
                scope.spawn(|| worker.run())
            })
            .collect();
        // One by one: ThreadSanitizer does not see how the scope waits, and takes what follows for a race.
        for worker in workers {
            worker.join().unwrap();
        }
    });
}

fn everything_at_once(huge: HugePolicy, filled: bool) {
    let (mm, pool) = mm(&config(huge, numbers(filled)));

    work_on(std::slice::from_ref(&mm), filled);

    let mut frames = 0;
    for (gfn, entry) in mm.page_table().entries(mm.range()) {
        assert!(entry.is_present(), "{gfn:?} was left closed");
        let folio = mm.folios().borrow(entry.pfn().index(), entry.size()).unwrap();
        assert_eq!((folio.references(), folio.total_mapcount()), (1, 1));
        frames += entry.size().pages();
    }
    assert_eq!(mm.stretch().report().used, frames);
    drop(mm);
    pool.assert_all_free();
}

#[test]
fn no_frame_is_lost_or_used_twice_among_base_pages() {
    everything_at_once(HugePolicy::Never, false);
}

#[test]
fn no_frame_is_lost_or_used_twice_among_huge_pages() {
    everything_at_once(HugePolicy::Always, false);
}

#[test]
fn no_frame_is_lost_or_used_twice_among_filled_pages() {
    everything_at_once(HugePolicy::Always, true);
}

/// As [`everything_at_once`], in two address spaces that share their memory.
fn everything_at_once_in_two(huge: [HugePolicy; 2], filled: bool) {
    let pool = FramePool::new(&PoolConfig::new(PoolMemory::Shmem, "8M".parse().unwrap())).unwrap();
    let size = "6M".parse().unwrap();
    let memory = SharedMemory::new(&pool, size, Commitment::Overcommitted, numbers(filled)).unwrap();
    let mms = huge.map(|huge| Mm::modelled_on(&config(huge, None), &memory).unwrap());

    work_on(&mms, filled);

    let mut frames = 0;
    for folio in pool.folios().in_use(0..pool.frames()) {
        assert_eq!(folio.references(), folio.total_mapcount() + 1, "{folio:?}");
        frames += folio.size().pages();
    }
    let mapped =
        |mm: &Arc<Mm>| mm.page_table().entries(mm.range()).map(|(_, entry)| entry).collect::<Vec<_>>();
    for entry in mms.iter().flat_map(mapped) {
        assert!(entry.is_present() && pool.folios().find(entry.pfn().index()).is_some(), "{entry:?}");
    }
    assert_eq!(memory.report().used, frames);
    assert_eq!(memory.remove(AddressRange::new(0, memory.bytes()).unwrap()).unwrap().pinned_bytes, 0);
    assert_eq!(memory.report().used, 0);
    drop((mms, memory));
    pool.assert_all_free();
}

#[test]
fn no_frame_is_lost_or_used_twice_among_base_pages_that_two_share() {
    everything_at_once_in_two([HugePolicy::Never; 2], false);
}

#[test]
fn no_frame_is_lost_or_used_twice_among_pages_that_are_huge_for_one() {
    everything_at_once_in_two([HugePolicy::Always, HugePolicy::Never], false);
}

#[test]
fn no_frame_is_lost_or_used_twice_among_filled_pages_that_two_share() {
    everything_at_once_in_two([HugePolicy::Always; 2], true);
}

#[test]
fn whoever_comes_second_to_a_fill_finds_the_page() {
    let filler = Some(Arc::<Numbers>::default() as Arc<dyn Filler>);
    let around = FaultAround::OFF;
    let (mm, _pool) = mm(&MmConfig { around, filler, ..MmConfig::new(pages(0, COUNT)) });

    thread::scope(|scope| {
        let touch_all = || {
            for page in 0..COUNT {
                // Gives way to a fill that is under way; anything else is an error.
                while let Err(error) = mm.touch(gfn(page).address(), false) {
                    assert!(matches!(error, FaultError::Contended { .. }), "{error:?}");
                }
            }
        };
        let other = scope.spawn(touch_all);
        touch_all();
        other.join().unwrap();
    });

    assert!((0..COUNT).all(|page| read(&mm, gfn(page)) == [page + 1; 2]));
}
