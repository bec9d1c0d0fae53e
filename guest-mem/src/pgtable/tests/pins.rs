//! References without a lock, one thread at a time; the models have the races.

use super::*;
use crate::pgtable::PinError;

/// A table whose head has a page, then a huge entry, then pages; all writable.
fn mapped() -> PageTable {
    let table = table();
    for number in [FIRST + 1, 4 * BLOCK_PAGES, 4 * BLOCK_PAGES + 1] {
        let mut guard = table.lock(gfn(number)).unwrap();
        guard.expose_table().unwrap();
        guard.set_page(gfn(number), base(number, EntryFlags::WRITE)).unwrap();
    }
    table.lock(gfn(3 * BLOCK_PAGES)).unwrap().set_huge(huge(9, EntryFlags::WRITE)).unwrap();
    table
}

/// All that `mapped` maps.
fn all() -> AddressRange {
    pages(FIRST + 1, 1 + BLOCK_PAGES + 2)
}

#[test]
fn a_pin_holds_one_reference_for_each_entry_and_drops_them() {
    let (table, counts) = (mapped(), Counts::default());

    let pin = table.pin(all(), true, &counts).unwrap();

    let pieces: Vec<_> =
        pin.pieces().map(|piece| (piece.gfn.get(), piece.pfn.index(), piece.pages)).collect();
    let (head, tail) = (FIRST + 1, 4 * BLOCK_PAGES);
    assert_eq!(
        pieces,
        [(head, head, 1), (3 * BLOCK_PAGES, 9 * BLOCK_PAGES, 512), (tail, tail, 1), (tail + 1, tail + 1, 1)]
    );
    assert_eq!((counts.held().len(), counts.held().values().sum()), (4, 4));
    drop(pin);
    assert_eq!(counts.held(), BTreeMap::new());
}

#[test]
fn a_pin_of_a_part_of_a_huge_page_says_where_the_part_is() {
    let (table, counts) = (mapped(), Counts::default());

    let pin = table.pin(pages(3 * BLOCK_PAGES + 5, 3), false, &counts).unwrap();

    let piece = pin.pieces().next().unwrap();
    assert_eq!((piece.pfn.index(), piece.pages, pin.pieces().count()), (9 * BLOCK_PAGES + 5, 3, 1));
}

#[test]
fn a_pin_marks_young_and_for_writing_dirty() {
    let (table, counts) = (mapped(), Counts::default());
    let page = gfn(4 * BLOCK_PAGES);

    drop(table.pin(all(), false, &counts).unwrap());
    let read = table.walk(page).flags();
    drop(table.pin(all(), true, &counts).unwrap());
    let written = table.walk(page).flags();

    assert_eq!(read, EntryFlags::WRITE | EntryFlags::YOUNG);
    assert_eq!(written, read | EntryFlags::DIRTY);
}

#[test]
fn a_pin_that_fails_names_the_first_page_and_keeps_nothing() {
    let mut counts = Counts::default();
    let table = mapped();
    let tail = gfn(4 * BLOCK_PAGES + 1);
    let held = |table: &PageTable, counts: &Counts, write| {
        let failed = table.pin(all(), write, counts).map(drop).unwrap_err();
        assert_eq!((failed.gfn(), counts.held()), (tail, BTreeMap::new()));
        failed
    };

    let mut guard = table.lock(tail).unwrap();
    let entry = guard.update(tail, EntryFlags::WP, EntryFlags::EMPTY);
    drop(guard);
    assert_eq!(held(&table, &counts, true), PinError::WriteProtected { gfn: tail });
    drop(table.pin(all(), false, &counts).unwrap());

    table.lock(tail).unwrap().replace(tail, entry.migrating()).unwrap();
    assert_eq!(held(&table, &counts, false), PinError::Migrating { gfn: tail });

    table.lock(tail).unwrap().clear_page(tail);
    assert_eq!(held(&table, &counts, false), PinError::Missing { gfn: tail });

    table.lock(tail).unwrap().set_page(tail, entry).unwrap();
    counts.frozen.insert(entry.pfn());
    assert_eq!(held(&table, &counts, false), PinError::Frozen { gfn: tail });
    assert!(table.get(tail, &counts).is_none());
}

#[test]
fn a_reference_to_a_page_of_a_large_folio_is_to_the_folio() {
    let (table, counts) = (mapped(), Counts::default());
    let page = gfn(3 * BLOCK_PAGES + 7);
    table.lock(page).unwrap().split_huge();

    let (reference, entry) = table.get(page, &counts).unwrap();

    assert_eq!((entry.size(), entry.pfn().index()), (PageSize::Base, 9 * BLOCK_PAGES + 7));
    assert_eq!(reference.1, Pfn::new(1, 9 * BLOCK_PAGES));
}
