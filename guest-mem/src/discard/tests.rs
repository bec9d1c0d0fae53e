use super::*;
use mmu_notifier::{PAGE_SIZE, Subscriber, WouldBlock};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// Bytes in a made-up huge page: four base pages.
const HUGE: u64 = 4 * PAGE_SIZE;
/// Where the made-up RAM begins.
const BASE: u64 = 1 << 20;

type Calls = Arc<Mutex<Vec<(&'static str, AddressRange)>>>;

/// An owner whose one subscriber notes what it is told, where the model notes what is done to it.
struct Owner {
    subscriptions: Subscriptions,
    calls: Calls,
}

struct Notes(Calls);

impl Subscriber for Notes {
    fn name(&self) -> &'static str {
        "notes"
    }

    fn invalidate_range_start(&self, invalidation: &Invalidation) -> Result<(), WouldBlock> {
        self.0.lock().unwrap().push(("start", invalidation.range()));
        Ok(())
    }

    fn invalidate_range_end(&self, invalidation: &Invalidation) {
        self.0.lock().unwrap().push(("end", invalidation.range()));
    }
}

impl Owner {
    fn discard(&self, memory: &impl Zap, range: AddressRange) -> Result<Discarded, DiscardError> {
        let ram = AddressRange::new(BASE, 8 * HUGE).unwrap();
        discard(&self.subscriptions, ram, memory, HUGE, range)
    }

    /// What was called so far, oldest first.
    fn calls(&self) -> Vec<(&'static str, AddressRange)> {
        self.calls.lock().unwrap().clone()
    }
}

fn owner() -> Owner {
    let (subscriptions, calls) = (Subscriptions::new(), Calls::default());
    subscriptions.register(Arc::new(Notes(calls.clone()))).unwrap();
    Owner { subscriptions, calls }
}

/// RAM that is a set of huge pages that are there, and a set of base pages that hold something.
struct Model<'a> {
    owner: &'a Owner,
    present: RefCell<BTreeSet<u64>>,
    filled: RefCell<BTreeSet<u64>>,
    refuses: Option<&'static str>,
}

impl<'a> Model<'a> {
    /// RAM of which the huge pages `present` are there, and full.
    fn with(owner: &'a Owner, present: impl IntoIterator<Item = u64>) -> Self {
        let present: BTreeSet<u64> = present.into_iter().collect();
        let filled = present.iter().flat_map(|huge| huge * 4..huge * 4 + 4).collect();
        Self { owner, present: present.into(), filled: RefCell::new(filled), refuses: None }
    }

    fn called(&self, what: &'static str, range: &Range<u64>) -> io::Result<()> {
        let len = range.end - range.start;
        let range = AddressRange::new(BASE + range.start, len).unwrap();
        self.owner.calls.lock().unwrap().push((what, range));
        match self.refuses {
            Some(refused) if refused == what => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
            _ => Ok(()),
        }
    }

    fn empty(&self, range: &Range<u64>) {
        self.filled.borrow_mut().retain(|page| !range.contains(&(page * PAGE_SIZE)));
    }
}

impl Zap for Model<'_> {
    fn free(&self, range: Range<u64>) -> Result<(), FreeError> {
        self.called("free", &range).map_err(FreeError::Refused)?;
        self.present.borrow_mut().retain(|huge| !range.contains(&(huge * HUGE)));
        self.empty(&range);
        self.called("reserve", &range).map_err(FreeError::ReservationLost)
    }

    fn is_present(&self, page: u64) -> io::Result<bool> {
        Ok(self.present.borrow().contains(&(page / HUGE)))
    }

    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        self.called("zero", &range)?;
        assert!(self.is_present(range.start / HUGE * HUGE)?);
        self.empty(&range);
        Ok(())
    }
}

/// `pages` base pages from the RAM's base page `first` on.
#[track_caller]
fn pages(first: u64, pages: u64) -> AddressRange {
    AddressRange::new(BASE + first * PAGE_SIZE, pages * PAGE_SIZE).unwrap()
}

#[test]
fn every_zap_lies_between_start_and_end() {
    let owner = owner();
    let model = Model::with(&owner, 0..8);

    let discarded = owner.discard(&model, pages(3, 6)).unwrap();

    let zeroed_bytes = 2 * PAGE_SIZE;
    assert_eq!(discarded, Discarded { freed_bytes: HUGE, zeroed_bytes, pinned_bytes: 0 });
    let expected = [
        ("start", pages(3, 6)),
        ("zero", pages(3, 1)),
        ("zero", pages(8, 1)),
        ("free", pages(4, 4)),
        ("reserve", pages(4, 4)),
        ("end", pages(3, 6)),
    ];
    assert_eq!(owner.calls(), expected);
}

#[test]
fn an_error_ends_the_invalidation() {
    let owner = owner();
    for refuses in ["zero", "free"] {
        let model = Model { refuses: Some(refuses), ..Model::with(&owner, 0..8) };

        let result = owner.discard(&model, pages(3, 6));

        assert!(matches!(result, Err(DiscardError::Refused { .. })), "{result:?}");
        assert_eq!(owner.calls().last(), Some(&("end", pages(3, 6))));
    }
}

#[test]
fn a_lost_reservation_has_its_own_error() {
    let owner = owner();
    let model = Model { refuses: Some("reserve"), ..Model::with(&owner, 0..8) };

    let result = owner.discard(&model, pages(0, 4));

    assert!(matches!(result, Err(DiscardError::ReservationLost { .. })), "{result:?}");
    assert_eq!(owner.calls().last(), Some(&("end", pages(0, 4))));
}

#[test]
fn a_range_outside_announces_nothing() {
    let owner = owner();
    let model = Model::with(&owner, 0..8);
    let outside = AddressRange::new(BASE - PAGE_SIZE, 2 * PAGE_SIZE).unwrap();

    let result = owner.discard(&model, outside);

    assert!(matches!(result, Err(DiscardError::OutOfRange { .. })), "{result:?}");
    assert_eq!(owner.calls(), []);
}

proptest! {
    /// Against the naive model: base page by base page.
    #[test]
    fn parts_agree_with_a_walk_over_pages(first in 0_u64..40, count in 1_u64..40, per_huge in 1_u64..9) {
        let range = first..first + count;

        let parts = Parts::of(range.clone(), per_huge);

        let in_whole = |page: u64| {
            let huge = page / per_huge * per_huge;
            range.contains(&huge) && range.contains(&(huge + per_huge - 1))
        };
        for page in range.clone() {
            let places = [&parts.head, &parts.whole, &parts.tail].map(|part| part.contains(&page));
            prop_assert_eq!(places.iter().filter(|&&here| here).count(), 1);
            prop_assert_eq!(places[1], in_whole(page));
        }
        prop_assert_eq!(parts.head.start..parts.tail.end, range);
        for edge in parts.edges() {
            prop_assert_eq!(edge.start / per_huge, (edge.end - 1) / per_huge);
        }
    }

    #[test]
    fn what_was_discarded_is_empty_and_the_rest_is_as_it_was(
        present in proptest::collection::btree_set(0_u64..8, 0..8), first in 0_u64..32, count in 1_u64..32,
    ) {
        let count = count.min(32 - first);
        let owner = owner();
        let model = Model::with(&owner, present.clone());

        let discarded = owner.discard(&model, pages(first, count)).unwrap();

        let in_range = |page: u64| (first..first + count).contains(&page);
        let untouched = present.iter().flat_map(|huge| huge * 4..huge * 4 + 4).filter(|&page| !in_range(page));
        prop_assert_eq!(model.filled.take(), untouched.collect::<BTreeSet<_>>());
        prop_assert!(model.present.take().is_subset(&present));
        prop_assert_eq!(discarded.freed_bytes + discarded.zeroed_bytes, count * PAGE_SIZE);
    }
}
