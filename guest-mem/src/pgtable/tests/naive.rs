//! Random histories against a map that has every page one by one.

use std::ops::ControlFlow;

use proptest::prelude::*;

use super::*;
use crate::pgtable::Mapped;

/// One call, on page `FIRST + .0`.
#[derive(Clone, Debug)]
enum Op {
    SetHuge(u64, Entry),
    ClearHuge(u64),
    /// Exposes the page table first if the flag says so.
    SetPage(u64, bool, Entry),
    ClearPage(u64),
    Split(u64),
    Replace(u64, Entry),
    Update(u64, EntryFlags, EntryFlags),
    Pin(u64, u64, bool),
    Zap(u64, u64),
}

/// Each page's entry, as a walk finds it.
type Naive = BTreeMap<Gfn, Entry>;

/// The pages of `page`'s 2 MiB range that the table's range has.
fn block(page: Gfn) -> impl Iterator<Item = Gfn> {
    (0..BLOCK_PAGES)
        .map(move |i| page.block().plus(i))
        .filter(|gfn| (FIRST..FIRST + COUNT).contains(&gfn.get()))
}

fn whole(page: Gfn) -> bool {
    block(page).count() as u64 == BLOCK_PAGES
}

fn remove_block(naive: &mut Naive, page: Gfn) {
    naive.retain(|gfn, _| gfn.block() != page.block());
}

fn run(op: &Op, table: &PageTable, naive: &mut Naive, counts: &Counts) {
    let number = |page: &u64| gfn(FIRST + page);
    match op {
        Op::SetHuge(page, entry) => {
            let page = number(page);
            let fits = whole(page) && block(page).all(|gfn| !naive.contains_key(&gfn));
            assert_eq!(table.lock(page).unwrap().set_huge(*entry).is_ok(), fits);
            if fits {
                naive.extend(block(page).map(|gfn| (gfn, *entry)));
            }
        }
        Op::ClearHuge(page) => {
            let page = number(page);
            let entry = naive.get(&page).copied().filter(|entry| entry.is_huge());
            assert_eq!(table.lock(page).unwrap().clear_huge(), entry.unwrap_or(Entry::NONE));
            if entry.is_some() {
                remove_block(naive, page);
            }
        }
        Op::SetPage(page, expose, entry) => {
            let page = number(page);
            let mut guard = table.lock(page).unwrap();
            let exposed = *expose && guard.expose_table().is_ok()
                || block(page).any(|gfn| naive.get(&gfn).is_some_and(|entry| !entry.is_huge()));
            let fits = exposed && !naive.contains_key(&page);
            assert_eq!(guard.set_page(page, *entry).is_ok(), fits);
            if fits {
                naive.insert(page, *entry);
            }
        }
        Op::ClearPage(page) => {
            let page = number(page);
            let entry = naive.get(&page).copied().filter(|entry| !entry.is_huge());
            assert_eq!(table.lock(page).unwrap().clear_page(page), entry.unwrap_or(Entry::NONE));
            if entry.is_some() {
                naive.remove(&page);
            }
        }
        Op::Split(page) => {
            let page = number(page);
            let huge = naive.get(&page).copied().filter(|entry| entry.is_huge() && entry.is_present());
            assert_eq!(table.lock(page).unwrap().split_huge(), huge.unwrap_or(Entry::NONE));
            if let Some(huge) = huge {
                let flags = huge.flags();
                let page_of = |gfn| Entry::new(huge.pfn_of(gfn), PageSize::Base, flags);
                naive.extend(block(page).map(|gfn| (gfn, page_of(gfn))));
            }
        }
        Op::Replace(page, entry) => {
            let page = number(page);
            let old = naive.get(&page).copied().filter(|old| old.size() == entry.size());
            assert_eq!(table.lock(page).unwrap().replace(page, *entry).ok(), old);
            if old.is_some() {
                change(naive, page, |_| *entry);
            }
        }
        Op::Update(page, set, clear) => {
            let page = number(page);
            let old = naive.get(&page).copied().unwrap_or(Entry::NONE);
            assert_eq!(table.lock(page).unwrap().update(page, *set, *clear), old);
            change(naive, page, |old| old.without(*clear).with(*set));
        }
        Op::Pin(page, count, write) => {
            let range = pages(FIRST + page, (*count).min(COUNT - page));
            let marks = if *write { EntryFlags::YOUNG | EntryFlags::DIRTY } else { EntryFlags::YOUNG };
            let good = |gfn: &Gfn| {
                naive.get(gfn).is_some_and(|entry| entry.is_present() && (!write || entry.is_writable()))
            };
            let bad = Gfn::all_of(range).find(|gfn| !good(gfn));
            let pin = table.pin(range, *write, counts);
            assert_eq!(pin.as_ref().err().map(|error| error.gfn()), bad);
            if let Ok(pin) = &pin {
                let frames = pin.pieces().flat_map(|piece| (0..piece.pages).map(move |i| piece.pfn.plus(i)));
                assert!(frames.eq(Gfn::all_of(range).map(|gfn| naive[&gfn].pfn_of(gfn))));
            }
            let marked = Gfn::all_of(range).take_while(|gfn| Some(*gfn) != bad).collect::<Vec<_>>();
            for gfn in marked {
                change(naive, gfn, |old| old.with(marks));
            }
        }
        Op::Zap(page, count) => {
            let range = pages(FIRST + page, (*count).min(COUNT - page));
            let flow = table.for_each_locked(range, |guard, part| {
                let entries: Vec<_> = guard.entries(part).collect();
                for (gfn, entry) in entries {
                    let cleared = if entry.is_huge() { guard.clear_huge() } else { guard.clear_page(gfn) };
                    assert_eq!(cleared, entry);
                }
                ControlFlow::<()>::Continue(())
            });
            assert!(flow.is_continue());
            for gfn in Gfn::all_of(range) {
                if naive.remove(&gfn).is_some_and(Entry::is_huge) {
                    remove_block(naive, gfn);
                }
            }
        }
    }
}

/// Changes the entry that maps `page`, for all pages that it maps.
fn change(naive: &mut Naive, page: Gfn, f: impl Fn(Entry) -> Entry) {
    let Some(&entry) = naive.get(&page) else { return };
    if entry.is_huge() {
        naive.extend(block(page).map(|gfn| (gfn, f(entry))));
    } else {
        naive.insert(page, f(entry));
    }
}

fn check(table: &PageTable, naive: &Naive, counts: &Counts) {
    for number in FIRST - 1..=FIRST + COUNT {
        let gfn = gfn(number);
        let entry = naive.get(&gfn).copied().unwrap_or(Entry::NONE);
        assert_eq!(table.walk(gfn), entry, "{gfn:?}");
        let got = table.get(gfn, counts).map(|(reference, entry)| (reference.1, entry));
        assert_eq!(got, entry.is_present().then(|| (entry.folio().0, entry)));
    }
    let mut entries: Vec<_> = naive.iter().map(|(gfn, entry)| (*gfn, *entry)).collect();
    entries.retain(|(gfn, entry)| !entry.is_huge() || gfn.in_block() == 0);
    let present = |huge| {
        entries.iter().filter(|(_, entry)| entry.is_present() && entry.is_huge() == huge).count() as u64
    };
    assert_eq!(table.mapped(), Mapped { base: present(false), huge: present(true) });
    assert!(table.entries(table.range()).eq(entries));
    assert_eq!(counts.held(), BTreeMap::new());
}

/// Few pages, so that operations meet: the head, the tail, and some of each 2 MiB range.
fn page() -> impl Strategy<Value = u64> {
    prop_oneof![0..6_u64, 510..518_u64, 1022..COUNT]
}

fn flags() -> impl Strategy<Value = EntryFlags> {
    use EntryFlags as F;
    prop::sample::select(vec![F::EMPTY, F::WRITE, F::WRITE | F::WP, F::YOUNG, F::WRITE | F::DIRTY])
}

fn base_entry() -> impl Strategy<Value = Entry> {
    (0..4096_u64, flags(), 0..8).prop_map(|(index, flags, moving)| {
        let entry = base(index, flags);
        if moving == 0 { entry.migrating() } else { entry }
    })
}

fn huge_entry() -> impl Strategy<Value = Entry> {
    (0..8_u64, flags(), 0..8).prop_map(|(index, flags, moving)| {
        let entry = huge(index, flags);
        if moving == 0 { entry.migrating() } else { entry }
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (page(), huge_entry()).prop_map(|(page, entry)| Op::SetHuge(page, entry)),
        1 => page().prop_map(Op::ClearHuge),
        6 => (page(), any::<bool>(), base_entry()).prop_map(|(page, expose, entry)| Op::SetPage(page, expose, entry)),
        3 => page().prop_map(Op::ClearPage),
        2 => page().prop_map(Op::Split),
        3 => (page(), prop_oneof![base_entry(), huge_entry()]).prop_map(|(page, entry)| Op::Replace(page, entry)),
        3 => (page(), flags(), flags()).prop_map(|(page, set, clear)| Op::Update(page, set, clear)),
        4 => (page(), 1..600_u64, any::<bool>()).prop_map(|(page, count, write)| Op::Pin(page, count, write)),
        1 => (page(), 1..600_u64).prop_map(|(page, count)| Op::Zap(page, count)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_histories_agree_with_a_map_of_single_pages(ops in prop::collection::vec(op(), 1..60)) {
        let (table, mut naive, counts) = (table(), Naive::new(), Counts::default());

        for op in &ops {
            run(op, &table, &mut naive, &counts);
            check(&table, &naive, &counts);
        }
    }
}
