//! Whom a walk finds, after windows came and went.

use mmu_notifier::PAGE_SIZE;

use super::*;

fn range(start: u64, pages: u64) -> AddressRange {
    AddressRange::new(start * PAGE_SIZE, pages * PAGE_SIZE).unwrap()
}

/// Pages from `guest` of address space `mm` show pages from `offset`.
fn window(mm: u64, guest: u64, pages: u64, offset: u64) -> Window {
    Window { mm: MmId::new(mm), guest: range(guest, pages), offset: offset * PAGE_SIZE }
}

fn showing(mapping: &Mapping, wanted: AddressRange) -> Vec<Window> {
    let mut found: Vec<_> = mapping.windows().showing(wanted).collect();
    found.sort_by_key(|window| (window.mm, window.guest.start()));
    found
}

#[test]
fn a_walk_finds_every_address_space_and_cuts_to_what_was_asked() {
    let mapping = Mapping::new();
    mapping.link(window(1, 100, 10, 0));
    mapping.link(window(2, 7, 4, 6));
    mapping.link(window(3, 50, 5, 20));

    assert_eq!(showing(&mapping, range(5, 3)), [window(1, 105, 3, 5), window(2, 7, 2, 6)]);
    assert_eq!(showing(&mapping, range(10, 10)), []);
}

#[test]
fn one_address_space_may_show_a_part_twice() {
    let mapping = Mapping::new();
    mapping.link(window(1, 0, 4, 0));
    mapping.link(window(1, 8, 4, 0));

    assert_eq!(showing(&mapping, range(3, 1)), [window(1, 3, 1, 3), window(1, 11, 1, 3)]);
}

#[test]
fn what_was_unlinked_is_not_found_and_the_rest_is() {
    let mapping = Mapping::new();
    mapping.link(window(1, 10, 8, 0));
    mapping.link(window(2, 10, 8, 0));

    mapping.unlink(window(1, 12, 3, 2));

    let expected = [window(1, 10, 2, 0), window(1, 15, 3, 5), window(2, 10, 8, 0)];
    assert_eq!(showing(&mapping, range(0, 100)), expected);
}

#[test]
fn an_unlink_goes_through_all_windows_in_line() {
    let mapping = Mapping::new();
    mapping.link(window(1, 10, 4, 0));
    mapping.link(window(1, 14, 4, 4));

    mapping.unlink(window(1, 12, 4, 2));

    assert_eq!(showing(&mapping, range(0, 100)), [window(1, 10, 2, 0), window(1, 16, 2, 6)]);
}

#[test]
fn an_unlink_that_names_another_part_changes_nothing() {
    let mapping = Mapping::new();
    mapping.link(window(1, 10, 8, 0));

    mapping.unlink(window(1, 12, 3, 1));
    mapping.unlink(window(2, 12, 3, 2));

    assert_eq!(showing(&mapping, range(0, 100)), [window(1, 10, 8, 0)]);
}

#[test]
fn an_address_space_that_ends_is_forgotten() {
    let mapping = Mapping::new();
    mapping.link(window(1, 10, 8, 0));
    mapping.link(window(2, 10, 8, 0));

    mapping.unlink_all(MmId::new(1));

    assert_eq!(mapping.windows().iter().copied().collect::<Vec<_>>(), [window(2, 10, 8, 0)]);
}
