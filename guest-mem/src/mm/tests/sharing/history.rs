//! Random histories of two address spaces against the naive memory.

use std::ops::Range;

use proptest::prelude::*;

use super::{
    naive::{Naive, Space},
    *,
};
use crate::{
    folio::{FolioRef, FrameTable},
    pgtable::{EntryFlags, Pin},
};

/// Two 2 MiB ranges that may be huge, and a part of one that may not.
const COUNT: u64 = 2 * BLOCK_PAGES + 8;

#[derive(Clone, Debug)]
enum Step {
    Touch(usize, u64, bool),
    DontNeed(usize, u64, u64),
    Discard(usize, u64, u64),
    Dirty(usize, u64, u64, bool),
    Pin(usize, u64, u64, bool),
    Unpin(usize),
    Shrink(usize),
    /// The address space ends, and another begins in its place.
    Renew(usize),
}

/// The address spaces, the naive memory, and what is pinned.
struct Run<'a> {
    memory: SharedMemory,
    configs: [MmConfig; 2],
    mms: [Arc<Mm>; 2],
    naive: Naive,
    folios: &'a FrameTable,
    pins: Vec<Pin<FolioRef<'a>>>,
    stamp: u64,
}

impl Run<'_> {
    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let folios = self.pinned_folios();
        let is_pinned = |page: u64| folios.iter().any(|folio| folio.contains(&page));
        match *step {
            Step::Touch(mm, page, write) => self.touch(mm, page, write),
            Step::DontNeed(mm, start, count) => {
                self.mms[mm].dont_need(pages(start, count)).unwrap();
                self.naive.spaces[mm].dont_need(pages(start, count));
            }
            Step::Discard(mm, start, count) => {
                let range = pages(start, count);
                let expected = self.naive.remove(range, is_pinned);
                let discarded = self.mms[mm].discard(range).unwrap();
                prop_assert_eq!(discarded.zeroed_bytes, expected.zeroed);
                prop_assert_eq!(discarded.pinned_bytes, expected.pinned);
                prop_assert_eq!(discarded.freed_bytes, range.len() - expected.zeroed - expected.pinned);
            }
            Step::Dirty(mm, start, count, clear) => {
                let range = pages(start, count);
                let dirty = self.mms[mm].dirty_pages(range, clear).unwrap();
                prop_assert_eq!(dirty, self.naive.spaces[mm].dirty(range, clear, is_pinned));
            }
            Step::Pin(mm, start, count, write) => {
                let range = pages(start, count);
                let pin = self.mms[mm].page_table().pin(range, write, self.folios);
                let expected = self.naive.spaces[mm].pin(range, write);
                prop_assert_eq!(pin.as_ref().err().map(|error| error.gfn()), expected);
                self.pins.extend(pin);
            }
            Step::Unpin(which) => {
                if !self.pins.is_empty() {
                    drop(self.pins.swap_remove(which % self.pins.len()));
                }
            }
            Step::Shrink(mm) => {
                let shrunk = self.mms[mm].shrink(u64::MAX);
                prop_assert_eq!(shrunk.freed_bytes, self.naive.shrink(is_pinned));
            }
            Step::Renew(mm) => {
                self.mms[mm] = Mm::modelled_on(&self.configs[mm], &self.memory).unwrap();
                let Space { huge, tracked, .. } = self.naive.spaces[mm];
                self.naive.spaces[mm] = Space::new(COUNT, huge, tracked);
            }
        }
        Ok(())
    }

    fn touch(&mut self, mm: usize, page: u64, is_write: bool) {
        self.mms[mm].touch(gfn(page).address(), is_write).unwrap();
        self.naive.map(mm, page);
        // And what was mapped around it.
        for other in 0..COUNT {
            if self.mms[mm].page_table().walk(gfn(other)).is_present() {
                self.naive.map(mm, other);
            }
        }
        if is_write {
            self.stamp += 1;
            self.naive.write(mm, page, self.stamp);
            write(&self.mms[mm], gfn(page), self.stamp);
        }
    }

    /// The pages of each folio that a pin has a reference to.
    fn pinned_folios(&self) -> Vec<Range<u64>> {
        let first = self.mms[0].frame(gfn(0)).index();
        let pieces = self.pins.iter().flat_map(Pin::pieces);
        pieces.map(|piece| self.naive.folio(piece.pfn.index() - first)).collect()
    }

    /// Page tables, references, mapcounts, content, shares and the pool are what the naive memory says.
    fn check(&self) -> Result<(), TestCaseError> {
        let pins = self.pinned_folios();
        let (mut frames, mut shown) = (0, 0);
        for page in 0..COUNT {
            for (mm, space) in self.mms.iter().zip(&self.naive.spaces) {
                let entry = mm.page_table().walk(gfn(page));
                let Some(expected) = space.page(page) else {
                    prop_assert!(entry.is_none(), "page {}: {:?}", page, entry);
                    continue;
                };
                let flags = |flags| entry.flags().contains(flags);
                let marks = (entry.size(), flags(EntryFlags::WP), flags(EntryFlags::DIRTY));
                prop_assert_eq!(marks, (expected.size, expected.wp, expected.dirty), "page {}", page);
                prop_assert_eq!(entry.pfn_of(gfn(page)), mm.frame(gfn(page)));
            }
            let folio = self.folios.find(self.mms[0].frame(gfn(page)).index());
            let Some(expected) = self.naive.page(page) else {
                prop_assert!(folio.is_none(), "page {}: {:?}", page, folio);
                continue;
            };
            let folio = folio.unwrap();
            let mapcount = self.naive.spaces.iter().filter(|space| space.page(page).is_some()).count();
            prop_assert_eq!(folio.size(), expected.size, "page {}", page);
            prop_assert_eq!(folio.mapcount(gfn(page).in_block()) as usize, mapcount, "page {}", page);
            prop_assert_eq!(folio.references() as usize, self.references(page, &pins), "page {}", page);
            prop_assert_eq!(read(&self.mms[0], gfn(page)), [expected.stamp; 2], "page {}", page);
            frames += 1;
            shown += u64::from(mapcount > 0);
        }
        prop_assert_eq!(self.memory.report().used, frames);
        let shares: u64 = self.mms.iter().map(|mm| mm.report().usage.pss_bytes).sum();
        prop_assert_eq!(shares, shown * PAGE_SIZE);
        Ok(())
    }

    /// References to the folio of `page`: its entries', its pins', and the memory's own.
    fn references(&self, page: u64, pins: &[Range<u64>]) -> usize {
        let folio = self.naive.folio(page);
        let entries = self.naive.spaces.iter().flat_map(|space| {
            let mapped = folio.clone().filter_map(|page| Some((page, space.page(page)?)));
            mapped.filter(|(page, mapped)| mapped.size == PageSize::Base || *page == folio.start)
        });
        1 + entries.count() + pins.iter().filter(|pinned| **pinned == folio).count()
    }
}

/// Somewhere, often near the ends of the 2 MiB ranges.
fn place() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..COUNT,
        (0..4_u64, 0..6_u64).prop_map(|(block, at)| (block * BLOCK_PAGES + at).clamp(3, COUNT + 2) - 3),
    ]
}

/// A start and a length, often of whole 2 MiB ranges.
fn part() -> impl Strategy<Value = (u64, u64)> {
    let whole = (0..2_u64, 1..3_u64).prop_map(|(block, count)| (block * BLOCK_PAGES, count * BLOCK_PAGES));
    let any = (place(), prop_oneof![1..20_u64, 1..COUNT]);
    prop_oneof![any, whole].prop_map(|(start, count)| (start, count.min(COUNT - start)))
}

fn step() -> impl Strategy<Value = Step> {
    let mm = 0..2_usize;
    prop_oneof![
        10 => (mm.clone(), place(), any::<bool>()).prop_map(|(mm, page, write)| Step::Touch(mm, page, write)),
        3 => (mm.clone(), part()).prop_map(|(mm, (start, count))| Step::DontNeed(mm, start, count)),
        4 => (mm.clone(), part()).prop_map(|(mm, (start, count))| Step::Discard(mm, start, count)),
        2 => (mm.clone(), part(), any::<bool>())
            .prop_map(|(mm, (start, count), clear)| Step::Dirty(mm, start, count, clear)),
        2 => (mm.clone(), place(), 1..4_u64, any::<bool>())
            .prop_map(|(mm, start, count, write)| Step::Pin(mm, start, count.min(COUNT - start), write)),
        2 => any::<usize>().prop_map(Step::Unpin),
        1 => mm.clone().prop_map(Step::Shrink),
        1 => mm.prop_map(Step::Renew),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.min(32)))]

    #[test]
    fn agrees_with_a_memory_that_has_every_page_one_by_one(
        huge in any::<[bool; 2]>(),
        tracked in any::<[bool; 2]>(),
        around in any::<bool>(),
        steps in prop::collection::vec(step(), 1..50),
    ) {
        let pool = FramePool::new(&PoolConfig::new(PoolMemory::Shmem, "8M".parse().unwrap())).unwrap();
        let memory = SharedMemory::new(&pool, "6M".parse().unwrap(), Commitment::Overcommitted, None).unwrap();
        let space = |at: usize| Space::new(COUNT, huge[at], tracked[at]);
        let configs = [0, 1].map(|at| MmConfig {
            flags: VmaFlags {
                writable: true,
                dirty_tracked: tracked[at],
                huge: if huge[at] { HugePolicy::Always } else { HugePolicy::Never },
                ..VmaFlags::default()
            },
            around: if around { FaultAround::default() } else { FaultAround::OFF },
            ..MmConfig::new(pages(0, COUNT))
        });
        let mms = configs.each_ref().map(|config| Mm::modelled_on(config, &memory).unwrap());
        let naive = Naive::new(COUNT, [0, 1].map(space));
        let mut run = Run { memory, configs, mms, naive, folios: pool.folios(), pins: Vec::new(), stamp: 0 };

        for step in &steps {
            run.step(step)?;
            run.check().map_err(|error| TestCaseError::fail(format!("after {step:?}: {error}")))?;
        }

        drop(run.pins);
        drop((run.mms, run.memory));
        pool.assert_all_free();
        prop_assert_eq!(pool.folios().in_use(0..pool.frames()).count(), 0);
    }
}
