use std::sync::mpsc;

use mmu_notifier::PAGE_SIZE;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{Backing, ByteSize, Discarded, GuestRamConfig};

const M: u64 = 1 << 20;

fn pages(first: u64, count: u64) -> AddressRange {
    AddressRange::new(first * PAGE_SIZE, count * PAGE_SIZE).unwrap()
}

fn ram(backing: Backing) -> GuestRam {
    GuestRam::create(GuestRamConfig::new(ByteSize::new(4 * M).unwrap(), backing)).unwrap()
}

fn byte(ram: &GuestRam, page: u64) -> u8 {
    ram.view().read_obj(GuestAddress(page * PAGE_SIZE)).unwrap()
}

proptest! {
    /// Each page of the range is left exactly once, or is in one of those that were taken.
    #[test]
    fn what_is_left_is_the_range_without_what_was_taken(
        first in 0_u64..50,
        count in 1_u64..50,
        taken in vec((0_u64..100, 1_u64..20), 0..8),
    ) {
        let mut taken: Vec<_> = taken.iter().map(|(first, count)| pages(*first, *count)).collect();
        taken.sort_by_key(|taken| taken.start());
        let bytes: Vec<_> = taken.iter().map(|taken| taken.start()..taken.end()).collect();

        let left = without(pages(first, count), &bytes);

        for page in 0..120 {
            let page = page * PAGE_SIZE;
            let holds = left.iter().filter(|left| left.contains(page)).count();
            let expected = pages(first, count).contains(page) && !taken.iter().any(|taken| taken.contains(page));
            prop_assert_eq!(holds, usize::from(expected));
        }
    }
}

#[test]
fn what_is_pinned_is_left_alone_and_counted_in_every_way_to_run_ram() {
    for backing in [Backing::Anonymous, Backing::Shmem, Backing::Managed4kb] {
        let ram = ram(backing);
        for page in 0..8 {
            ram.view().write_obj(7_u8, GuestAddress(page * PAGE_SIZE)).unwrap();
        }
        let pin = ram.pin(pages(2, 3), true).unwrap();
        assert_eq!(pin.range(), pages(2, 3));

        let discarded = ram.discard(pages(0, 8)).unwrap();

        let [freed_bytes, pinned_bytes] = [5, 3].map(|pages| pages * PAGE_SIZE);
        assert_eq!(discarded, Discarded { freed_bytes, zeroed_bytes: 0, pinned_bytes });
        assert_eq!([0, 1, 2, 3, 4, 5].map(|page| byte(&ram, page)), [0, 0, 7, 7, 7, 0]);
        drop(pin);
        assert_eq!(ram.discard(pages(0, 8)).unwrap().freed_bytes, 8 * PAGE_SIZE);
        assert_eq!([2, 3, 4].map(|page| byte(&ram, page)), [0; 3]);
    }
}

#[test]
fn a_page_pinned_twice_stays_until_both_pins_are_gone() {
    for backing in [Backing::Shmem, Backing::Managed4kb] {
        let ram = ram(backing);
        let [first, second] = [true, false].map(|write| ram.pin(pages(1, 1), write).unwrap());

        drop(first);
        assert_eq!(ram.discard(pages(1, 1)).unwrap().pinned_bytes, PAGE_SIZE);
        drop(second);
        assert_eq!(ram.discard(pages(1, 1)).unwrap().pinned_bytes, 0);
    }
}

#[test]
fn a_pin_of_what_is_missing_makes_it_present() {
    let ram = ram(Backing::Managed4kb);

    let _pin = ram.pin(pages(5, 40), true).unwrap();

    assert!(ram.mm().unwrap().page_table().mapped().base >= 40);
}

#[test]
fn a_range_outside_the_ram_is_not_pinned() {
    let result = ram(Backing::Shmem).pin(pages(1023, 2), false);

    assert!(matches!(result, Err(RamPinError::OutOfRange { .. })), "{result:?}");
}

#[test]
fn a_pin_waits_for_the_discard_that_overlaps_and_for_no_other() {
    let pins = Arc::new(Pins::default());
    let discarding = pins.begin_discard(pages(0, 8));
    drop(pins.add(pages(8, 1)));
    let (pinned, order) = mpsc::channel();
    let waiting = {
        let pins = Arc::clone(&pins);
        thread::spawn(move || {
            let entry = pins.add(pages(7, 2));
            pinned.send("pinned").unwrap();
            entry
        })
    };

    assert!(order.recv_timeout(Duration::from_millis(50)).is_err(), "pinned under a discard");
    drop(discarding);

    assert_eq!(order.recv().unwrap(), "pinned");
    let _entry = waiting.join().unwrap();
    assert_eq!(pins.begin_discard(pages(0, 8)).parts, [pages(0, 7)]);
}
