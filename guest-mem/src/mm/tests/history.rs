//! Random histories against the naive manager.

use proptest::prelude::*;

use super::{naive::Naive, *};
use crate::{
    BLOCK_PAGES, FaultAround, PageSize,
    folio::FolioRef,
    mm::FaultError,
    pgtable::{EntryFlags, Mapped, Pin},
    vma::{HugePolicy, VmaChange, VmaFlags},
};

/// Two 2 MiB ranges that may be huge, and a part of one that may not.
const COUNT: u64 = 2 * BLOCK_PAGES + 8;

#[derive(Clone, Debug)]
enum Step {
    Touch(u64, bool),
    Discard(u64, u64),
    Modify(u64, u64, VmaChange),
    Dirty(u64, u64, bool),
    Pin(u64, u64, bool),
    Unpin(usize),
    /// From now on fills fail, or do not.
    FillsFail(bool),
}

/// The manager, the naive one, and what is pinned.
struct Run<'a> {
    mm: &'a Mm,
    naive: Naive,
    pins: Vec<Pin<FolioRef<'a>>>,
    filler: Option<Arc<Numbers>>,
    around: bool,
    stamp: u64,
}

impl Run<'_> {
    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Touch(page, write) => self.touch(*page, *write)?,
            Step::Discard(start, count) => {
                let range = pages(*start, *count);
                let expected = self.naive.discard(range, is_pinned(&self.pins));
                let discarded = self.mm.discard(range).unwrap();
                prop_assert_eq!(discarded.zeroed_bytes, expected.zeroed);
                prop_assert_eq!(discarded.pinned_bytes, expected.pinned);
                prop_assert_eq!(discarded.freed_bytes, range.len() - expected.zeroed - expected.pinned);
            }
            Step::Modify(start, count, change) => {
                let range = pages(*start, *count);
                let allowed = self.naive.allows(range, change);
                let outcome = self.mm.modify(range, change);
                prop_assert_eq!(outcome.is_ok(), allowed, "{:?}", outcome);
                if allowed {
                    self.naive.modify(range, change, is_pinned(&self.pins));
                }
            }
            Step::Dirty(start, count, clear) => {
                let range = pages(*start, *count);
                let dirty = self.mm.dirty_pages(range, *clear).unwrap();
                prop_assert_eq!(dirty, self.naive.dirty(range, *clear, is_pinned(&self.pins)));
            }
            Step::Pin(start, count, write) => {
                let range = pages(*start, *count);
                let pin = self.mm.page_table().pin(range, *write, self.mm.folios());
                prop_assert_eq!(pin.as_ref().err().map(|error| error.gfn()), self.naive.pin(range, *write));
                self.pins.extend(pin);
            }
            Step::Unpin(which) => {
                if !self.pins.is_empty() {
                    drop(self.pins.swap_remove(which % self.pins.len()));
                }
            }
            Step::FillsFail(fails) => {
                if let Some(filler) = &self.filler {
                    filler.fails.store(*fails, Relaxed);
                }
            }
        }
        Ok(())
    }

    fn touch(&mut self, page: u64, is_write: bool) -> Result<(), TestCaseError> {
        let outcome = self.mm.touch(gfn(page).address(), is_write);
        let fails = self.filler.as_ref().is_some_and(|filler| filler.fails.load(Relaxed));
        if fails && self.naive.page(page).mapped.is_none() {
            prop_assert!(matches!(outcome, Err(FaultError::Fill { .. })), "{:?}", outcome);
            return Ok(());
        }
        self.naive.map(page);
        if self.around {
            let mapped = |other| self.mm.page_table().walk(gfn(other)).is_present();
            prop_assert!(self.naive.absorb(page, mapped), "a page of another VMA was mapped");
        }
        self.stamp += 1;
        if is_write && self.naive.write(page, self.stamp << 32) {
            prop_assert!(outcome.is_ok(), "{:?}", outcome);
            write(self.mm, gfn(page), self.stamp << 32);
        } else if is_write {
            prop_assert!(matches!(outcome, Err(FaultError::Contended { .. })), "{:?}", outcome);
        } else {
            prop_assert!(outcome.is_ok(), "{:?}", outcome);
        }
        Ok(())
    }

    /// Page table, references, mapcounts, content, pool and commit charge are what the naive manager says.
    fn check(&self) -> Result<(), TestCaseError> {
        let (mut mapped, mut frames) = (Mapped::default(), 0);
        for number in 0..COUNT {
            let (page, gfn) = (self.naive.page(number), gfn(number));
            let entry = self.mm.page_table().walk(gfn);
            let flags = |flags| entry.flags().contains(flags);
            prop_assert_eq!(entry.is_none(), page.mapped.is_none(), "page {}: {:?}", number, entry);
            let Some(expected) = page.mapped else { continue };
            let marks =
                (flags(EntryFlags::WRITE), flags(EntryFlags::WP), flags(EntryFlags::DIRTY), entry.size());
            let expected_marks = (expected.write, expected.wp, expected.dirty, expected.size);
            prop_assert_eq!(marks, expected_marks, "page {}", number);
            prop_assert_eq!(entry.pfn_of(gfn), self.mm.frame(gfn));
            prop_assert_eq!(read(self.mm, gfn), [expected.stamp; 2], "page {}", number);
            self.check_folio(number, expected.size)?;
            frames += 1;
            match expected.size {
                PageSize::Base => mapped.base += 1,
                PageSize::Huge if number % BLOCK_PAGES == 0 => mapped.huge += 1,
                PageSize::Huge => {}
            }
        }
        prop_assert_eq!(self.mm.page_table().mapped(), mapped);
        prop_assert_eq!(self.mm.stretch().report().used, frames);
        prop_assert_eq!(self.mm.vmas().committed(), self.naive.charged());
        Ok(())
    }

    /// Each entry owns one reference, and so does each entry's part of a pin.
    fn check_folio(&self, number: u64, size: PageSize) -> Result<(), TestCaseError> {
        let head = if size == PageSize::Huge { gfn(number).block() } else { gfn(number) };
        let folio = self.mm.folios().borrow(self.mm.frame(head).index(), size).unwrap();
        let pieces = self.pins.iter().flat_map(Pin::pieces);
        let pins = pieces.filter(|piece| match size {
            PageSize::Base => piece.gfn == head,
            PageSize::Huge => piece.gfn.block() == head,
        });
        prop_assert_eq!(u64::from(folio.references()), 1 + pins.count() as u64, "page {}", number);
        prop_assert_eq!((folio.mapcount(gfn(number).in_block()), folio.total_mapcount()), (1, 1));
        Ok(())
    }
}

/// Whether a page is among what is pinned.
fn is_pinned(pins: &[Pin<FolioRef<'_>>]) -> impl Fn(u64) -> bool {
    |page| pins.iter().any(|pin| pin.range().contains(gfn(page).address()))
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

fn change() -> impl Strategy<Value = VmaChange> {
    prop_oneof![
        any::<bool>().prop_map(VmaChange::Writable),
        any::<bool>().prop_map(VmaChange::DirtyTracked),
        any::<bool>().prop_map(VmaChange::Mergeable),
        prop_oneof![Just(HugePolicy::Always), Just(HugePolicy::Never)].prop_map(VmaChange::Huge),
        prop_oneof![Just(None), Just(Some("heap".into()))].prop_map(VmaChange::Name),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (place(), any::<bool>()).prop_map(|(page, write)| Step::Touch(page, write)),
        4 => part().prop_map(|(start, count)| Step::Discard(start, count)),
        3 => (part(), change()).prop_map(|((start, count), change)| Step::Modify(start, count, change)),
        1 => (part(), any::<bool>()).prop_map(|((start, count), clear)| Step::Dirty(start, count, clear)),
        2 => (place(), 1..4_u64, any::<bool>())
            .prop_map(|(start, count, write)| Step::Pin(start, count.min(COUNT - start), write)),
        1 => any::<usize>().prop_map(Step::Unpin),
        1 => prop::bool::weighted(0.3).prop_map(Step::FillsFail),
    ]
}

fn flags() -> impl Strategy<Value = VmaFlags> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(writable, dirty_tracked, huge)| VmaFlags {
        writable,
        dirty_tracked,
        mergeable: false,
        huge: if huge { HugePolicy::Always } else { HugePolicy::Never },
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.min(48)))]

    #[test]
    fn agrees_with_a_manager_that_has_every_page_one_by_one(
        flags in flags(),
        filled in any::<bool>(),
        around in any::<bool>(),
        short in 0_u64..64,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let filler = filled.then(Arc::<Numbers>::default);
        let limit = if flags.writable { COUNT } else { COUNT - short };
        let config = MmConfig {
            flags,
            around: if around { FaultAround::default() } else { FaultAround::OFF },
            filler: filler.clone().map(|filler| filler as Arc<dyn Filler>),
            commit_limit: Some(limit),
            ..MmConfig::new(pages(0, COUNT))
        };
        let (mm, pool) = mm(&config);
        let mut run =
            Run { mm: &mm, naive: Naive::new(COUNT, flags, filled, limit), pins: Vec::new(), filler, around, stamp: 0 };

        for step in &steps {
            run.step(step)?;
            run.check().map_err(|error| TestCaseError::fail(format!("after {step:?}: {error}")))?;
        }

        drop(run);
        drop(mm);
        pool.assert_all_free();
    }
}
