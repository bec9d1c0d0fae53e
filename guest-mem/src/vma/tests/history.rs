//! Random histories against a naive map of pages.

use proptest::prelude::*;

use super::*;
use crate::vma::{Attachment, InsertError, LookedUp, OverCommit, Vma};

/// Pages in the address space.
const PAGES: u64 = 48;
/// Pages that may be charged: a few less than there are.
const LIMIT: u64 = 36;

/// What the model knows of one page.
#[derive(Clone, Debug, PartialEq)]
struct Page {
    flags: VmaFlags,
    name: Option<Arc<str>>,
    mapping: usize,
    /// In pages.
    offset: u64,
    charged: bool,
    faulted: bool,
}

#[derive(Clone, Debug)]
enum Step {
    /// A range with flags, in one of the mappings, at an offset that is this much ahead of the guest's address.
    Insert(AddressRange, VmaFlags, usize, u64),
    Remove(AddressRange),
    Modify(AddressRange, VmaChange),
    Fault(u64),
}

#[derive(Debug)]
struct Model {
    mappings: [Arc<Mapping>; 2],
    pages: Vec<Option<Page>>,
}

impl Model {
    fn new() -> Self {
        Self { mappings: Default::default(), pages: vec![None; usize::try_from(PAGES).unwrap()] }
    }

    fn page(&self, number: u64) -> Option<&Page> {
        self.pages[usize::try_from(number).unwrap()].as_ref()
    }

    fn of(&mut self, range: AddressRange) -> impl Iterator<Item = (u64, &mut Option<Page>)> {
        let pages = (0..PAGES).zip(&mut self.pages);
        pages.filter(move |(number, _)| range.contains(number * PAGE_SIZE))
    }

    fn charged(&self) -> u64 {
        self.pages.iter().flatten().filter(|page| page.charged).count() as u64
    }

    fn over(&self, wanted: u64) -> Option<OverCommit> {
        let committed = self.charged();
        (committed + wanted > LIMIT).then_some(OverCommit { wanted, committed, limit: LIMIT })
    }

    /// The first run of pages in `range` that were faulted in.
    fn faulted(&self, asked: AddressRange) -> Option<AddressRange> {
        let faulted = |&page: &u64| self.page(page).is_some_and(|page| page.faulted);
        let pages = asked.start() / PAGE_SIZE..asked.end() / PAGE_SIZE;
        let first = pages.clone().find(faulted)?;
        let run = (first..pages.end).take_while(faulted).count() as u64;
        Some(range(first, run))
    }

    /// Does `step` to the tree and to the model, and checks that both agree about its outcome.
    fn step(&mut self, tree: &VmaTree, step: &Step) -> Result<(), TestCaseError> {
        let mmap = tree.mmap_lock().write();
        match step {
            Step::Insert(range, flags, mapping, ahead) => {
                let offset = range.start() + ahead * PAGE_SIZE;
                let outcome =
                    tree.insert(&mmap, VmaSpec { offset, ..spec(*range, *flags, &self.mappings[*mapping]) });
                if self.of(*range).any(|(_, page)| page.is_some()) {
                    prop_assert!(matches!(outcome, Err(InsertError::Overlap { .. })), "{:?}", outcome);
                    return Ok(());
                }
                if flags.writable
                    && let Some(over) = self.over(range.pages())
                {
                    prop_assert_eq!(outcome, Err(InsertError::OverCommit(over)));
                    return Ok(());
                }
                prop_assert_eq!(outcome, Ok(()));
                for (number, page) in self.of(*range) {
                    *page = Some(Page {
                        flags: *flags,
                        name: None,
                        mapping: *mapping,
                        offset: number + ahead,
                        charged: flags.writable,
                        faulted: false,
                    });
                }
            }
            Step::Remove(range) => {
                let removed = tree.remove(&mmap, *range);
                let pages: u64 = removed.parts().iter().map(|part| part.range.pages()).sum();
                let mapped = self.of(*range).filter_map(|(_, page)| page.take()).count();
                prop_assert_eq!(pages, mapped as u64);
            }
            Step::Modify(range, change) => {
                let outcome = tree.modify(&mmap, *range, change, &|asked| self.faulted(asked));
                self.modify(outcome, *range, change)?;
            }
            Step::Fault(number) => {
                if let Some(page) = &mut self.pages[usize::try_from(*number).unwrap()] {
                    page.faulted = true;
                }
            }
        }
        Ok(())
    }

    fn modify(
        &mut self,
        outcome: Result<(), ModifyError>,
        range: AddressRange,
        change: &VmaChange,
    ) -> Result<(), TestCaseError> {
        if let Some((number, _)) = self.of(range).find(|(_, page)| page.is_none()) {
            prop_assert_eq!(outcome, Err(ModifyError::Hole { range, at: number * PAGE_SIZE }));
            return Ok(());
        }
        let uncharged =
            self.of(range).filter(|(_, page)| page.as_ref().is_some_and(|page| !page.charged)).count();
        if *change == VmaChange::Writable(true)
            && let Some(over) = self.over(uncharged as u64)
        {
            prop_assert_eq!(outcome, Err(ModifyError::OverCommit(over)));
            return Ok(());
        }
        prop_assert_eq!(outcome, Ok(()));
        for page in self.of(range).filter_map(|(_, page)| page.as_mut()) {
            match change {
                VmaChange::Writable(true) => page.charged = true,
                VmaChange::Writable(false) if page.flags.writable => page.charged = page.faulted,
                _ => {}
            }
            match change {
                VmaChange::Writable(on) => page.flags.writable = *on,
                VmaChange::DirtyTracked(on) => page.flags.dirty_tracked = *on,
                VmaChange::Mergeable(on) => page.flags.mergeable = *on,
                VmaChange::Huge(policy) => page.flags.huge = *policy,
                VmaChange::Name(name) => page.name.clone_from(name),
            }
        }
        Ok(())
    }

    fn agrees(&self, page: &Page, vma: &Vma, address: u64) -> bool {
        vma.flags == page.flags
            && vma.name == page.name
            && Arc::ptr_eq(&vma.mapping, &self.mappings[page.mapping])
            && vma.offset_of(address) == page.offset * PAGE_SIZE
    }

    /// Looks at everything there is to see.
    fn check(&self, tree: &VmaTree) -> Result<(), TestCaseError> {
        let vmas = tree.snapshot();
        for (one, next) in vmas.iter().zip(vmas.iter().skip(1)) {
            prop_assert!(one.range.end() <= next.range.start(), "{:?} overlaps {:?}", one, next);
            prop_assert!(!one.merges_with(next), "{:?} could be one with {:?}", one, next);
        }
        for number in 0..PAGES {
            let address = number * PAGE_SIZE;
            match (self.page(number), vmas.lock(address)) {
                (None, LookedUp::None) => {}
                (Some(page), LookedUp::Locked(vma)) => {
                    prop_assert!(self.agrees(page, &vma, address), "{:?} is not {:?}", *vma, page);
                }
                (page, found) => prop_assert!(false, "{:?}, but found {:?}", page, found),
            }
        }
        prop_assert_eq!(tree.committed(), self.charged());
        for (index, mapping) in self.mappings.iter().enumerate() {
            let mut shown: Vec<_> = mapping
                .windows()
                .iter()
                .flat_map(|window| {
                    (0..window.guest.pages()).map(|page| {
                        (window.guest.start() / PAGE_SIZE + page, window.offset / PAGE_SIZE + page)
                    })
                })
                .collect();
            shown.sort_unstable();
            let pages = (0..PAGES).filter_map(|number| Some((number, self.page(number)?)));
            let expected: Vec<_> = pages
                .filter(|(_, page)| page.mapping == index)
                .map(|(number, page)| (number, page.offset))
                .collect();
            prop_assert_eq!(shown, expected);
        }
        Ok(())
    }
}

fn ranges() -> impl Strategy<Value = AddressRange> {
    (0..PAGES, 1_u64..16).prop_map(|(start, pages)| range(start, pages.min(PAGES - start)))
}

fn policies() -> impl Strategy<Value = HugePolicy> {
    prop_oneof![Just(HugePolicy::Never), Just(HugePolicy::Always)]
}

fn steps() -> impl Strategy<Value = Step> {
    let flags = (any::<bool>(), policies());
    let flags = flags.prop_map(|(writable, huge)| VmaFlags { writable, huge, ..WRITABLE });
    let names = prop_oneof![Just(None), Just(Some(Arc::from("a"))), Just(Some(Arc::from("b")))];
    let changes = prop_oneof![
        4 => any::<bool>().prop_map(VmaChange::Writable),
        1 => any::<bool>().prop_map(VmaChange::DirtyTracked),
        1 => any::<bool>().prop_map(VmaChange::Mergeable),
        1 => policies().prop_map(VmaChange::Huge),
        1 => names.prop_map(VmaChange::Name),
    ];
    prop_oneof![
        4 => (ranges(), flags, 0_usize..2, prop_oneof![4 => Just(0_u64), 1 => 1_u64..3])
            .prop_map(|(range, flags, mapping, ahead)| Step::Insert(range, flags, mapping, ahead)),
        2 => ranges().prop_map(Step::Remove),
        6 => (ranges(), changes).prop_map(|(range, change)| Step::Modify(range, change)),
        3 => (0..PAGES).prop_map(Step::Fault),
    ]
}

proptest! {
    #[test]
    fn a_tree_agrees_with_a_map_of_pages(history in prop::collection::vec(steps(), 1..60)) {
        let (tree, mut model) = (VmaTree::new(MM, LIMIT), Model::new());
        for step in &history {
            let (before, charged) = (tree.snapshot(), tree.committed());

            model.step(&tree, step)?;

            model.check(&tree)?;
            let now = tree.snapshot();
            for vma in before.iter() {
                let kept = now.iter().any(|other| Arc::ptr_eq(other, vma));
                prop_assert_eq!(*vma.lock.read() == Attachment::Attached, kept);
            }
            if matches!(step, Step::Modify(_, change) if !matches!(change, VmaChange::Writable(_))) {
                prop_assert_eq!(tree.committed(), charged);
            }
        }
    }
}
