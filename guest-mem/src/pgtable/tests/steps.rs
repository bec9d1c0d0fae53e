//! What each operation does, and what it refuses.

use std::ops::ControlFlow;

use super::*;
use crate::pgtable::{BeyondAddressSpace, Mapped, OutsideTable, SetError, SlotState};

/// The first page of the first whole 2 MiB range.
const BLOCK: Gfn = Gfn::new(3 * BLOCK_PAGES);

#[test]
fn an_entry_keeps_its_frame_its_size_and_its_flags() {
    let frame = Pfn::new(u16::MAX, Pfn::MAX_FRAMES - 1);
    let entry = Entry::new(frame, PageSize::Base, EntryFlags::WRITE | EntryFlags::DIRTY);

    assert_eq!((entry.pfn(), entry.size()), (frame, PageSize::Base));
    assert_eq!(entry.flags(), EntryFlags::WRITE | EntryFlags::DIRTY);
    assert!(entry.is_present() && entry.is_writable() && !entry.is_huge() && !entry.is_none());
    assert!(!entry.with(EntryFlags::WP).is_writable());
    assert!(entry.maps_as(entry.without(EntryFlags::DIRTY)));
    assert!(!entry.maps_as(entry.migrating()));
    assert_eq!(entry.migrating().restored(), entry);
    assert_eq!(format!("{entry:?}"), format!("Base of {frame:?}, WRITE|DIRTY"));
}

#[test]
fn a_huge_entry_maps_each_page_of_its_range_to_the_frame_in_its_place() {
    let table = table();
    let entry = huge(9, EntryFlags::WRITE);

    table.lock(BLOCK).unwrap().set_huge(entry).unwrap();

    assert_eq!(table.walk(BLOCK.plus(511)), entry);
    assert_eq!(entry.pfn_of(BLOCK.plus(511)), Pfn::new(1, 9 * BLOCK_PAGES + 511));
    assert_eq!(table.walk(BLOCK.plus(512)), Entry::NONE);
    assert_eq!(table.mapped(), Mapped { base: 0, huge: 1 });
}

#[test]
fn a_page_needs_an_exposed_page_table() {
    let table = table();
    let mut guard = table.lock(BLOCK).unwrap();

    let refused = guard.set_page(BLOCK, base(1, EntryFlags::EMPTY));
    guard.expose_table().unwrap();
    let set = guard.set_page(BLOCK, base(1, EntryFlags::EMPTY));

    assert_eq!((refused, set), (Err(SetError::NoTable), Ok(())));
    assert_eq!(guard.entry(BLOCK), base(1, EntryFlags::EMPTY));
}

#[test]
fn a_page_table_without_pages_is_withdrawn_with_the_lock() {
    let table = table();
    table.lock(BLOCK).unwrap().expose_table().unwrap();
    let never_used = table.lock(BLOCK).unwrap().state();

    let mut guard = table.lock(BLOCK).unwrap();
    guard.expose_table().unwrap();
    guard.set_page(BLOCK.plus(7), base(1, EntryFlags::EMPTY)).unwrap();
    drop(guard);
    let used = table.lock(BLOCK).unwrap().state();
    let cleared = table.lock(BLOCK).unwrap().clear_page(BLOCK.plus(7));

    assert_eq!((never_used, used), (SlotState::None, SlotState::Table));
    assert_eq!(cleared, base(1, EntryFlags::EMPTY));
    table.lock(BLOCK).unwrap().set_huge(huge(2, EntryFlags::EMPTY)).unwrap();
    assert_eq!(table.mapped(), Mapped { base: 0, huge: 1 });
}

#[test]
fn whoever_comes_second_is_told_what_is_there() {
    let table = table();
    let (first, second) = (huge(1, EntryFlags::EMPTY), huge(2, EntryFlags::EMPTY));
    let mut guard = table.lock(BLOCK).unwrap();
    guard.set_huge(first).unwrap();

    let occupied = Err(SetError::Occupied { entry: first });
    assert_eq!(guard.set_huge(second), occupied);
    assert_eq!(guard.expose_table(), occupied);
    assert_eq!(guard.set_page(BLOCK, base(7, EntryFlags::EMPTY)), occupied);

    guard.split_huge();
    assert_eq!(guard.set_huge(second), Err(SetError::TableExposed));
    let entry = guard.entry(BLOCK);
    assert_eq!(guard.set_page(BLOCK, base(7, EntryFlags::EMPTY)), Err(SetError::Occupied { entry }));
}

#[test]
fn wrong_entries_and_wrong_places_are_refused() {
    let table = table();
    let (page, block) = (base(1, EntryFlags::EMPTY), huge(1, EntryFlags::EMPTY));
    let crooked = Entry::new(Pfn::new(1, 5), PageSize::Huge, EntryFlags::EMPTY);

    let mut head = table.lock(gfn(FIRST)).unwrap();
    assert_eq!(head.set_huge(block), Err(SetError::PartOfBlock));
    assert!(!head.is_whole());
    head.expose_table().unwrap();
    let before = gfn(FIRST - 1);
    assert_eq!(head.set_page(before, page), Err(SetError::NotUnderLock { gfn: before }));
    assert_eq!(head.set_page(BLOCK, page), Err(SetError::NotUnderLock { gfn: BLOCK }));
    assert_eq!(head.set_page(gfn(FIRST), block), Err(SetError::WrongEntry { entry: block }));
    head.set_page(gfn(FIRST), page).unwrap();
    assert_eq!(head.replace(gfn(FIRST), block), Err(SetError::WrongEntry { entry: block }));
    drop(head);

    let mut guard = table.lock(BLOCK).unwrap();
    assert_eq!(guard.set_huge(page), Err(SetError::WrongEntry { entry: page }));
    assert_eq!(guard.set_huge(crooked), Err(SetError::WrongEntry { entry: crooked }));
    assert_eq!(guard.replace(BLOCK, block), Err(SetError::WrongEntry { entry: block }));
    drop(guard);

    for outside in [0, FIRST - 1, FIRST + COUNT, u64::MAX] {
        let (gfn, range) = (gfn(outside), table.range());
        assert_eq!(table.lock(gfn).map(drop), Err(OutsideTable { gfn, range }));
        assert_eq!(table.walk(gfn), Entry::NONE);
    }
    let range = AddressRange::ALL;
    assert_eq!(PageTable::new(range).map(drop), Err(BeyondAddressSpace { range }));
}

#[test]
fn a_split_keeps_frames_and_flags_and_remembers_the_folio() {
    let table = table();
    let mut guard = table.lock(BLOCK).unwrap();
    guard.set_huge(huge(9, EntryFlags::WRITE | EntryFlags::DIRTY)).unwrap();

    let old = guard.split_huge();
    drop(guard);

    assert_eq!(old, huge(9, EntryFlags::WRITE | EntryFlags::DIRTY));
    let page = table.walk(BLOCK.plus(100));
    assert_eq!((page.size(), page.pfn()), (PageSize::Base, Pfn::new(1, 9 * BLOCK_PAGES + 100)));
    assert_eq!(page.flags(), old.flags());
    assert_eq!(page.folio(), (Pfn::new(1, 9 * BLOCK_PAGES), PageSize::Huge));
    assert_eq!(table.mapped(), Mapped { base: 512, huge: 0 });
}

#[test]
fn a_page_that_migrates_is_not_mapped_and_not_free() {
    let table = table();
    let mut guard = table.lock(BLOCK).unwrap();
    guard.expose_table().unwrap();
    let (from, to) = (base(1, EntryFlags::WRITE), base(2, EntryFlags::WRITE));
    guard.set_page(BLOCK, from).unwrap();

    let old = guard.replace(BLOCK, from.migrating()).unwrap();
    drop(guard);

    assert_eq!(old, from);
    assert_eq!(table.mapped(), Mapped::default());
    assert!(table.get(BLOCK, &Counts::default()).is_none());
    let mut guard = table.lock(BLOCK).unwrap();
    assert_eq!(guard.state(), SlotState::Table);
    assert_eq!(guard.replace(BLOCK, to), Ok(from.migrating()));
    drop(guard);
    assert_eq!((table.walk(BLOCK), table.mapped().base), (to, 1));
}

#[test]
fn a_terabyte_is_gone_through_by_what_is_mapped_of_it() {
    let range = AddressRange::new(PAGE_SIZE, 1 << 40).unwrap();
    let table = PageTable::new(range).unwrap();
    let (first, last) = (gfn(512), Gfn::of(range.end()).block());
    table.lock(first).unwrap().set_huge(huge(1, EntryFlags::EMPTY)).unwrap();
    let mut guard = table.lock(last).unwrap();
    guard.expose_table().unwrap();
    guard.set_page(last, base(3, EntryFlags::EMPTY)).unwrap();
    drop(guard);

    let seen: Vec<_> = table.entries(range).collect();
    let mut locked = Vec::new();
    let flow = table.for_each_locked(AddressRange::ALL, |guard, part| {
        locked.extend(guard.entries(part));
        ControlFlow::<()>::Continue(())
    });

    assert_eq!(seen, [(first, huge(1, EntryFlags::EMPTY)), (last, base(3, EntryFlags::EMPTY))]);
    assert_eq!((flow, locked), (ControlFlow::Continue(()), seen));
}

#[test]
fn going_through_a_range_stops_where_it_is_told_to() {
    let table = table();
    for block in [BLOCK, BLOCK.plus(BLOCK_PAGES)] {
        table.lock(block).unwrap().set_huge(huge(1, EntryFlags::EMPTY)).unwrap();
    }

    let mut empty = 0;
    let flow = table.for_each_locked(pages(FIRST, 10), |guard, part| match guard.state() {
        SlotState::None => {
            empty += 1;
            ControlFlow::Continue(())
        }
        _ => ControlFlow::Break((guard.block(), part)),
    });

    assert_eq!(flow, ControlFlow::Break((BLOCK, pages(FIRST + 2, 8))));
    assert_eq!(empty, 1, "what another may be mapping is not passed over");
}
