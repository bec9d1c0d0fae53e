//! The entry of a 2 MiB range: who gets to set it, and what readers see while it is split.

use super::*;
use crate::pgtable::SetError;

/// A huge fault and a fault of page 1 meet in an empty range, and a third thread looks.
fn two_faults(planted: Option<Bug>) {
    model(planted, || {
        let guest = Guest::new();
        let huge_fault = spawn(&guest, |guest| guest.lock().set_huge(huge()));
        let reader = spawn(&guest, |guest| PAGES.map(|gfn| guest.table.walk(gfn)));

        let mut guard = guest.lock();
        let base_fault = guard.expose_table().and_then(|()| guard.set_page(PAGES[1], base(1)));
        drop(guard);

        let (huge_fault, [first, second]) = (huge_fault.join().unwrap(), reader.join().unwrap());
        let now = guest.table.walk(PAGES[1]);
        match (huge_fault, base_fault) {
            (Ok(()), Err(SetError::Occupied { entry })) => assert_eq!((entry, now), (huge(), huge())),
            (Err(SetError::TableExposed), Ok(())) => assert_eq!(now, base(1)),
            both => panic!("one of two faults wins, and the other is told: {both:?}"),
        }
        assert!(first.is_none() || first == second, "what is mapped stays mapped");
        assert!(second.is_none() || second == now, "what is mapped stays mapped");
    });
}

#[test]
fn one_of_a_huge_and_a_base_fault_wins_and_the_other_is_told() {
    two_faults(None);
}

#[test]
#[should_panic = "one of two faults wins"]
fn a_page_table_exposed_over_a_huge_entry_is_caught() {
    two_faults(Some(Bug::ExposeOverHuge));
}

#[test]
#[should_panic = "one of two faults wins"]
fn a_huge_entry_set_over_a_page_table_is_caught() {
    two_faults(Some(Bug::HugeOverTable));
}

/// A frame is filled and mapped; a thread walks to the page and reads it, with no reference.
fn a_fault(planted: Option<Bug>) {
    model(planted, || {
        let guest = Guest::new();
        let reader = spawn(&guest, |guest| {
            let entry = guest.table.walk(PAGES[1]);
            if entry.is_present() {
                assert_eq!(guest.read(PAGES[1], entry), 10);
            }
        });

        guest.map_page(PAGES[1], guest.filled(0, PageSize::Base, 10));

        reader.join().unwrap();
    });
}

#[test]
fn whoever_sees_an_entry_sees_what_the_frame_was_filled_with() {
    a_fault(None);
}

#[test]
#[should_panic = "left == right"]
fn an_entry_that_is_set_without_order_is_caught() {
    a_fault(Some(Bug::RelaxedSet));
}

/// A range is split while a thread walks to its second page, twice, and another pins the first for writing.
fn a_split(planted: Option<Bug>) {
    model(planted, || {
        let guest = Guest::new();
        guest.map_huge(guest.filled(0, PageSize::Huge, 10));
        let walker = spawn(&guest, |guest| {
            let [first, second] = [(); 2].map(|()| guest.table.walk(PAGES[1]));
            assert!(first.is_present() && second.is_present(), "a reader found nothing");
            assert!(first.is_huge() || !second.is_huge(), "a reader saw the split undone");
            assert_eq!([first, second].map(|entry| entry.pfn_of(PAGES[1]).index()), [1, 1]);
        });
        let device = spawn(&guest, |guest| {
            let pin = guest.table.pin(AddressRange::new(0, 4096).unwrap(), true, &guest.frames);
            assert!(pin.is_ok(), "a pin found nothing: {pin:?}");
        });

        let mut guard = guest.lock();
        let folio = guest.frames.borrow(0, PageSize::Huge).unwrap();
        folio.get_many(1);
        guard.split_huge();
        folio.split_mapping();
        drop(guard);

        walker.join().unwrap();
        device.join().unwrap();
        assert!(guest.table.walk(PAGES[0]).flags().contains(EntryFlags::DIRTY), "the mark is lost");
        assert_eq!((folio.references(), folio.total_mapcount()), (2, 2));
    });
}

#[test]
fn a_reader_finds_the_huge_entry_or_the_page() {
    a_split(None);
}

#[test]
#[should_panic = "found nothing"]
fn a_split_that_clears_the_huge_entry_first_is_caught() {
    a_split(Some(Bug::SplitClearsFirst));
}

#[test]
#[should_panic = "found nothing"]
fn a_split_that_exposes_an_empty_page_table_is_caught() {
    a_split(Some(Bug::SplitExposesFirst));
}

#[test]
#[should_panic = "found nothing"]
fn a_page_table_that_is_exposed_without_order_is_caught() {
    a_split(Some(Bug::RelaxedExpose));
}

#[test]
#[should_panic = "the mark is lost"]
fn a_split_that_forgets_marks_is_caught() {
    a_split(Some(Bug::SplitForgetsMarks));
}
