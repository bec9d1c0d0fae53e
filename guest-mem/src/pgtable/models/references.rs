//! References without a lock, against whoever takes the frame away.

use super::*;

/// What page 0 and page 1 hold; frames add their number.
const FIRST: u64 = 10;
const SECOND: u64 = 20;

/// A reader gets page 0 while it is unmapped and its frame, if free, becomes page 1.
fn a_frame_used_again(planted: Option<Bug>, mut reader: impl FnMut(&Guest) + Copy + Send + Sync + 'static) {
    model(planted, move || {
        let guest = Guest::new();
        guest.map_page(PAGES[0], guest.filled(0, PageSize::Base, FIRST));
        let reading = spawn(&guest, move |guest| reader(guest));

        if let Some(folio) = guest.unmap_page(PAGES[0]) {
            folio.free();
            guest.map_page(PAGES[1], guest.filled(0, PageSize::Base, SECOND));
        }

        reading.join().unwrap();
    });
}

fn get_both(guest: &Guest) {
    for (gfn, content) in [(PAGES[1], SECOND), (PAGES[0], FIRST)] {
        if let Some((_reference, entry)) = guest.table.get(gfn, &guest.frames) {
            assert_eq!(guest.read(gfn, entry), content);
        }
    }
}

fn pin_first(guest: &Guest) {
    if let Ok(pin) = guest.table.pin(AddressRange::new(0, 4096).unwrap(), true, &guest.frames) {
        let pfn = pin.pieces().next().unwrap().pfn;
        assert_eq!(guest.content(pfn.index()).load(Relaxed), FIRST);
    }
}

#[test]
fn a_reference_is_to_the_frame_that_the_page_maps() {
    a_frame_used_again(None, get_both);
}

#[test]
#[should_panic = "left == right"]
fn a_reference_without_a_second_look_is_caught() {
    a_frame_used_again(Some(Bug::NoSecondLook), get_both);
}

#[test]
fn a_pin_is_of_the_frame_that_the_page_maps() {
    a_frame_used_again(None, pin_first);
}

#[test]
#[should_panic = "left == right"]
fn a_pin_without_a_second_look_is_caught() {
    a_frame_used_again(Some(Bug::NoSecondLook), pin_first);
}

/// A reclaimer freezes the folio of page 0, clears the entry and frees the frame; a device pins the page.
///
/// A frame that a device has pinned keeps what it held.
fn pin_and_reclaim(planted: Option<Bug>) {
    model(planted, || {
        let guest = Guest::new();
        guest.map_page(PAGES[0], guest.filled(0, PageSize::Base, FIRST));
        let device = spawn(&guest, |guest| {
            let pin = guest.table.pin(AddressRange::new(0, 4096).unwrap(), true, &guest.frames);
            pin.is_ok_and(|pin| {
                // What the device does with the page takes a while.
                thread::yield_now();
                let kept = guest.content(0).load(Relaxed) == FIRST;
                drop(pin);
                assert!(kept, "reclaimed while pinned");
                true
            })
        });

        let mut guard = guest.lock();
        let folio = guest.frames.borrow(0, PageSize::Base).unwrap().adopt();
        let (frozen, dirty) = match folio.freeze(1) {
            Ok(folio) => {
                let entry = guard.clear_page(PAGES[0]);
                folio.unmap_page(0);
                folio.free();
                drop(guest.filled(0, PageSize::Base, SECOND));
                (true, entry.flags().contains(EntryFlags::DIRTY))
            }
            Err(folio) => {
                folio.leak();
                (false, false)
            }
        };
        drop(guard);

        let pinned = device.join().unwrap();
        assert!(pinned || frozen, "one of the two gets the page");
        assert!(!(pinned && frozen) || dirty, "a pin that is over left its mark");
        assert_eq!(guest.table.walk(PAGES[0]).is_none(), frozen);
    });
}

#[test]
fn a_page_is_pinned_or_reclaimed() {
    pin_and_reclaim(None);
}

#[test]
#[should_panic = "reclaimed while pinned"]
fn a_freeze_that_looks_and_then_writes_is_caught_by_the_pin() {
    pin_and_reclaim(Some(Bug::FreezeInTwoSteps));
}

#[test]
#[should_panic = "reclaimed while pinned"]
fn a_pin_of_a_folio_without_references_is_caught() {
    pin_and_reclaim(Some(Bug::GetFromZero));
}

/// A device pins page 0 for writing while it is unmapped: whoever unmapped it knows that it may be written.
fn a_mark_and_an_unmap(planted: Option<Bug>) {
    model(planted, || {
        let guest = Guest::new();
        guest.map_page(PAGES[0], guest.filled(0, PageSize::Base, FIRST));
        let device = spawn(&guest, |guest| {
            guest.table.pin(AddressRange::new(0, 4096).unwrap(), true, &guest.frames).is_ok()
        });

        let cleared = guest.lock().clear_page(PAGES[0]);

        let pinned = device.join().unwrap();
        assert_eq!(pinned, cleared.flags().contains(EntryFlags::DIRTY));
    });
}

#[test]
fn whoever_clears_an_entry_takes_the_mark_of_a_pin_along() {
    a_mark_and_an_unmap(None);
}

#[test]
#[should_panic = "left == right"]
fn a_mark_that_comes_after_the_second_look_is_caught() {
    a_mark_and_an_unmap(Some(Bug::MarkLater));
}

/// Page 0 is unmapped, its page table withdrawn, the range mapped huge by frames that were free, and split; a device
/// pins the page for writing meanwhile.
fn pages_become_huge_and_pages_again(planted: Option<Bug>) {
    model(planted, || {
        let guest = Guest::new();
        guest.map_page(PAGES[0], guest.filled(0, PageSize::Base, FIRST));
        let device = spawn(&guest, |guest| {
            let pin = guest.table.pin(AddressRange::new(0, 4096).unwrap(), true, &guest.frames).ok()?;
            let pfn = pin.pieces().next().unwrap().pfn;
            Some(guest.content(pfn.index()).load(Relaxed))
        });

        if let Some(folio) = guest.unmap_page(PAGES[0]) {
            folio.free();
            guest.map_huge(guest.filled(0, PageSize::Huge, SECOND));
            guest.lock().split_huge();
        }

        let pinned = device.join().unwrap();
        let dirty = guest.table.walk(PAGES[0]).flags().contains(EntryFlags::DIRTY);
        assert!(matches!(pinned, None | Some(FIRST | SECOND)), "{pinned:?}");
        assert!(pinned != Some(SECOND) || dirty, "the mark stays");
    });
}

#[test]
fn a_range_changes_its_size_under_a_pin() {
    pages_become_huge_and_pages_again(None);
}

#[test]
#[should_panic = "the mark stays"]
fn a_split_that_forgets_marks_is_caught_when_the_range_changes_its_size() {
    pages_become_huge_and_pages_again(Some(Bug::SplitForgetsMarks));
}
