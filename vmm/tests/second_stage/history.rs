//! Random histories on one thread: after each step, all that two second stages hold is true, and the guest sees what it
//! wrote.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use guest_mem::{
    BLOCK_PAGES, ChangeError, FaultAround, Gfn, Mm, Pfn,
    folio::FolioRef,
    pgtable::{Entry, Pin, PinError},
    vma::{HugePolicy, VmaChange},
};
use proptest::{collection::vec, prelude::*, sample::Index, test_runner::TestCaseResult};
use vmm::model::{Level, SecondStage};

use crate::{
    naive::{Naive, block_of},
    space::{Folios, PAGES, address, gfn, mm, pages},
};

/// One step. Ranges are pages from the start of the RAM.
#[derive(Clone, Debug)]
enum Op {
    /// A vCPU of one of the two second stages touches a page.
    Touch {
        small: bool,
        page: u64,
        write: bool,
    },
    Discard(Range<u64>),
    Modify(Range<u64>, VmaChange),
    Pin {
        pages: Range<u64>,
        write: bool,
    },
    Unpin(Index),
    Dirty {
        pages: Range<u64>,
        clear: bool,
    },
}

/// Pages, most of them near the ends of blocks.
fn page() -> impl Strategy<Value = u64> {
    let near =
        (0..=3_u64, -3..4_i64).prop_map(|(block, off)| (block * BLOCK_PAGES).saturating_add_signed(off));
    prop_oneof![4 => near, 1 => 0..PAGES].prop_map(|page| page.min(PAGES - 1))
}

/// Ranges, some of them whole blocks.
fn range() -> impl Strategy<Value = Range<u64>> {
    let blocks = (0..3_u64, 1..4_u64)
        .prop_map(|(first, count)| first * BLOCK_PAGES..((first + count) * BLOCK_PAGES).min(PAGES));
    let any = (page(), page()).prop_map(|(a, b)| a.min(b)..a.max(b) + 1);
    prop_oneof![blocks, any]
}

fn change() -> impl Strategy<Value = VmaChange> {
    prop_oneof![
        any::<bool>().prop_map(VmaChange::Writable),
        any::<bool>().prop_map(VmaChange::DirtyTracked),
        prop_oneof![Just(HugePolicy::Always), Just(HugePolicy::Never)].prop_map(VmaChange::Huge),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (any::<bool>(), page(), any::<bool>())
            .prop_map(|(small, page, write)| Op::Touch { small, page, write }),
        3 => range().prop_map(Op::Discard),
        3 => (range(), change()).prop_map(|(range, change)| Op::Modify(range, change)),
        2 => (range(), any::<bool>()).prop_map(|(pages, write)| Op::Pin { pages, write }),
        1 => any::<Index>().prop_map(Op::Unpin),
        2 => (range(), any::<bool>()).prop_map(|(pages, clear)| Op::Dirty { pages, clear }),
    ]
}

/// Pages that a device has pinned.
type Device<'a> = (Range<u64>, Pin<FolioRef<'a>>);

struct World<'a> {
    mm: &'a Arc<Mm>,
    /// One with leaves as large as they come, one with leaves of 4 KiB only.
    stages: [SecondStage; 2],
    /// The content of frames, by number: what was never written since the frame was zeroed is missing.
    memory: BTreeMap<Pfn, u64>,
    naive: Naive,
    pins: Vec<Device<'a>>,
    stamp: u64,
}

impl World<'_> {
    fn step(&mut self, op: &Op) -> TestCaseResult {
        match op {
            Op::Touch { small, page, write } => self.touch(usize::from(*small), *page, *write)?,
            Op::Discard(range) => self.discard(range)?,
            Op::Modify(range, change) => match self.mm.modify(bytes(range), change) {
                Ok(()) => self.naive.change(range.clone(), change),
                Err(ChangeError::PartOfHugePage { .. }) => {
                    let whole = |page| page % BLOCK_PAGES == 0 || page == PAGES;
                    prop_assert!(!whole(range.start) || !whole(range.end), "{range:?} cuts nothing");
                }
                Err(error) => prop_assert!(false, "{error}"),
            },
            Op::Pin { pages, write } => self.pin(pages, *write)?,
            Op::Unpin(index) if !self.pins.is_empty() => drop(self.pins.remove(index.index(self.pins.len()))),
            Op::Unpin(_) => {}
            Op::Dirty { pages, clear } => self.collect_dirty(pages, *clear)?,
        }
        self.check()
    }

    /// `range` with the whole of the huge pages at its ends.
    fn whole_huge_pages(&self, range: &Range<u64>) -> Range<u64> {
        let whole = |page: u64| {
            let huge = self.mm.page_table().walk(gfn(page)).is_huge();
            if huge { block_of(page) } else { page..page + 1 }
        };
        whole(range.start).start..whole(range.end - 1).end
    }

    fn touch(&mut self, stage: usize, page: u64, write: bool) -> TestCaseResult {
        let expected = *self.naive.page(page);
        let accessed = self.stages[stage].access(address(page), write);

        let Ok(access) = accessed else {
            prop_assert!(write && !expected.writable, "page {page} is denied: {:?}", accessed);
            return Ok(());
        };

        prop_assert!(!write || expected.writable, "page {page} may not be written");
        let content = self.memory.get(&access.frame).copied().unwrap_or(0);
        prop_assert_eq!(content, expected.content, "page {}", page);
        if write {
            self.stamp += 1;
            self.memory.insert(access.frame, self.stamp);
            self.naive.write(page, self.stamp);
        }
        Ok(())
    }

    fn discard(&mut self, range: &Range<u64>) -> TestCaseResult {
        let (mut zeroed, mut pinned) = (0, 0);
        let reached = self.whole_huge_pages(range);
        let table = self.mm.page_table();
        let before: Vec<_> = reached.map(|page| (page, table.walk(gfn(page)))).collect();
        for &(page, entry) in before.iter().filter(|(page, _)| range.contains(page)) {
            let block = block_of(page);
            let cut = block.start < range.start || range.end < block.end;
            if entry.is_present() && self.is_pinned(page, entry.is_huge()) {
                pinned += 1;
            } else {
                zeroed += u64::from(entry.is_huge() && cut);
                self.forget(page, entry);
            }
        }

        let done = self.mm.discard(bytes(range)).unwrap();

        prop_assert_eq!((done.zeroed_bytes / 4096, done.pinned_bytes / 4096), (zeroed, pinned));
        for stage in &self.stages {
            prop_assert!(stage.holds_nothing_of(bytes(range)), "a translation outlives its discard");
        }
        // A host without content finds nothing but zeros in a huge page of which every part was discarded once.
        for (page, entry) in before {
            if entry.is_present() && table.walk(gfn(page)).is_none() {
                self.forget(page, entry);
            }
        }
        Ok(())
    }

    /// The page is zeros: the manager zeroes frames, but these have their content here.
    fn forget(&mut self, page: u64, entry: Entry) {
        if entry.is_present() {
            self.memory.remove(&entry.pfn_of(gfn(page)));
        }
        let page = self.naive.page(page);
        (page.content, page.written) = (0, false);
    }

    fn is_pinned(&self, page: u64, huge: bool) -> bool {
        let shares = if huge { block_of(page) } else { page..page + 1 };
        self.pins.iter().any(|(pinned, _)| pinned.start < shares.end && shares.start < pinned.end)
    }

    fn pin(&mut self, range: &Range<u64>, write: bool) -> TestCaseResult {
        let table = self.mm.page_table();
        let missing = range.clone().map(gfn).find(|gfn| !table.walk(*gfn).is_present());
        match table.pin(bytes(range), write, Folios(self.mm.folios())) {
            Ok(pin) => {
                prop_assert_eq!(missing, None);
                for page in range.clone().filter(|_| write) {
                    prop_assert!(self.naive.page(page).writable, "page {page} may not be written");
                    self.naive.page(page).written = true;
                }
                self.pins.push((range.clone(), pin));
            }
            Err(PinError::Missing { gfn }) => prop_assert_eq!(missing, Some(gfn)),
            Err(PinError::WriteProtected { gfn }) => prop_assert!(write && !table.walk(gfn).is_writable()),
            Err(error) => prop_assert!(false, "nothing is frozen or moves here: {error}"),
        }
        Ok(())
    }

    fn collect_dirty(&mut self, range: &Range<u64>, clear: bool) -> TestCaseResult {
        let dirty = self.mm.dirty_pages(bytes(range), clear).unwrap();
        for page in range.clone() {
            let known = *self.naive.page(page);
            let lost = known.tracked && known.written && !dirty.contains(&gfn(page));
            prop_assert!(!lost, "the write to page {} is lost", page);
        }
        // Of a huge page all pages are told, those beside the range too.
        for gfn in dirty.iter().filter(|_| clear) {
            self.naive.page(gfn.get() - Gfn::of(address(0)).get()).written = false;
        }
        Ok(())
    }

    /// What is held is true, and lets nothing through that was not asked for.
    fn check(&mut self) -> TestCaseResult {
        for stage in &self.stages {
            stage.check().map_err(|stale| TestCaseError::fail(stale.to_string()))?;
            for page in interesting() {
                let held = stage.translation(address(page));
                let lets_writes_through = held.is_some_and(|leaf| leaf.writable);
                prop_assert!(!lets_writes_through || self.naive.page(page).writable, "page {page}: {held:?}");
            }
        }
        Ok(())
    }
}

/// Pages near the ends of blocks, where VMAs, leaves and the RAM begin and end.
fn interesting() -> impl Iterator<Item = u64> {
    (0..PAGES).filter(|page| (page + 4) % BLOCK_PAGES < 8)
}

fn bytes(range: &Range<u64>) -> mmu_notifier::AddressRange {
    pages(range.start, range.end - range.start)
}

fn run(huge: HugePolicy, around: FaultAround, ops: &[Op]) -> TestCaseResult {
    let mm = mm(huge, around);
    let stages = [SecondStage::new(&mm), SecondStage::with_leaves(&mm, Level::K4)].map(Result::unwrap);
    let mut world =
        World { mm: &mm, stages, memory: BTreeMap::new(), naive: Naive::new(), pins: Vec::new(), stamp: 0 };
    for op in ops {
        world.step(op)?;
    }

    // At the end everything can be had back.
    world.pins.clear();
    mm.discard(pages(0, PAGES)).unwrap();
    prop_assert_eq!(mm.page_table().mapped().base + mm.page_table().mapped().huge, 0);
    prop_assert!(world.stages.iter().all(|stage| stage.mapped().bytes() == 0));
    prop_assert_eq!(first_pinnable(&mm), None);
    mm.pool().assert_all_free();
    Ok(())
}

/// A page that still has a folio, if one has.
fn first_pinnable(mm: &Mm) -> Option<Gfn> {
    let frames = Folios(mm.folios());
    (0..PAGES).map(gfn).find(|&gfn| mm.page_table().get(gfn, frames).is_some())
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn every_history_of_huge_pages_keeps_translations_true(ops in vec(op(), 1..80)) {
        run(HugePolicy::Always, FaultAround::OFF, &ops)?;
    }

    #[test]
    fn every_history_of_base_pages_keeps_translations_true(ops in vec(op(), 1..80)) {
        run(HugePolicy::Never, FaultAround::default(), &ops)?;
    }
}
