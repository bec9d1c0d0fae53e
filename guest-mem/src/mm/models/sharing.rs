//! Two address spaces that show one memory: what one does with a page while the other uses it.

use std::{fmt, os::fd::BorrowedFd};

use super::{discards::Device, *};
use crate::pool::FrameStore;

/// Memory of which we know when it is zeroed: the guests' content is written then.
struct Zeroed(Arc<[Content; 2]>);

impl Zeroed {
    fn overwrite(&self, bytes: &Range<u64>) {
        Host::pages(bytes).for_each(|page| self.0[page].overwrite());
    }
}

impl fmt::Debug for Zeroed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Zeroed")
    }
}

impl FrameStore for Zeroed {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn populate(&self, bytes: Range<u64>) -> io::Result<()> {
        self.overwrite(&bytes);
        Ok(())
    }

    fn punch(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn promise(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn is_huge(&self, _: Range<u64>) -> bool {
        true
    }

    fn zero(&self, bytes: Range<u64>) -> io::Result<()> {
        self.overwrite(&bytes);
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn read(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        Ok(())
    }

    fn copy(&self, _: Range<u64>, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// Two guests that share two base pages.
fn two() -> [Arc<Guest>; 2] {
    let content = Arc::<[Content; 2]>::default();
    let config = PoolConfig::new(PoolMemory::None, "2M".parse().unwrap());
    let pool = FramePool::on(&config, Box::new(Zeroed(Arc::clone(&content)))).unwrap();
    let stretch = pool.reserve(1, Commitment::Overcommitted).unwrap();
    let object = MemoryObject::shared(stretch, None, 1);
    let guests = [(); 2].map(|()| Guest::showing(&object, both(), HugePolicy::Never, Arc::clone(&content)));
    for guest in &guests {
        guest.make_all();
    }
    guests
}

/// Two guests, the first of which has mapped page 0.
fn one_has_it() -> [Arc<Guest>; 2] {
    let guests = two();
    guests[0].access(PAGES[0]);
    guests
}

fn first_page() -> AddressRange {
    AddressRange::new(0, PAGE_SIZE).unwrap()
}

/// References to each folio are its entries' and one more, every frame that is taken has a folio, and in the end all are
/// free.
fn check_and_end(guests: [Arc<Guest>; 2]) {
    let mut frames = 0;
    for gfn in PAGES {
        let entries = guests.each_ref().map(|guest| guest.mm.table.walk(gfn));
        for (guest, entry) in guests.iter().zip(entries) {
            assert_eq!(entry.is_present(), guest.host.mapped()[gfn.in_block()]);
        }
        let count = u32::try_from(entries.iter().filter(|entry| entry.is_present()).count()).unwrap();
        let Some(folio) = guests[0].mm.folios.find(guests[0].mm.frame(gfn).index()) else {
            assert_eq!(count, 0, "a free frame is mapped");
            continue;
        };
        assert_eq!((folio.total_mapcount(), folio.references()), (count, count + 1));
        frames += 1;
    }
    let pool = Arc::clone(&guests[0].pool);
    assert_eq!(pool.report().usage.used, frames, "a frame is taken and not in use, or the reverse");
    for guest in guests {
        let Ok(guest) = Arc::try_unwrap(guest) else { panic!("a thread has not ended") };
        drop(ManuallyDrop::into_inner(guest.mm));
    }
    pool.assert_all_free();
}

/// Both touch a page that nobody has touched: it is zeroed once, and both map it.
fn of_two_faults(planted: Option<Bug>) {
    explore(PREEMPTIONS, planted, || {
        let guests = two();
        let other = spawn(&guests[1], |guest| guest.access(PAGES[0]));
        guests[0].access(PAGES[0]);
        other.join().unwrap();

        assert!(guests.iter().all(|guest| guest.mm.table.walk(PAGES[0]).is_present()));
        check_and_end(guests);
    });
}

#[test]
fn of_two_faults_on_a_page_one_takes_the_frame_and_both_map_it() {
    of_two_faults(None);
}

#[test]
#[should_panic(expected = "left: (2, 2)")]
fn planted_mapping_without_a_reference_is_caught() {
    of_two_faults(Some(Bug::MapUncounted));
}

/// One touches the page while the other removes it from both: it is there in the end, or not, and both go on.
fn removal_and_a_fault(planted: Option<Bug>) {
    explore(PREEMPTIONS, planted, || {
        let guests = one_has_it();
        let other = spawn(&guests[1], |guest| guest.access(PAGES[0]));
        let discarded = guests[0].mm.discard(first_page()).unwrap();
        other.join().unwrap();

        assert_eq!(discarded.pinned_bytes, 0, "left, and nobody had pinned it");
        check_and_end(guests);
    });
}

#[test]
fn a_fault_on_a_page_that_is_being_removed_is_resolved_or_woken() {
    removal_and_a_fault(None);
}

#[test]
#[should_panic(expected = "left, and nobody had pinned it")]
fn planted_a_fault_in_a_closed_range_is_caught() {
    removal_and_a_fault(Some(Bug::FaultInClosed));
}

#[test]
#[should_panic(expected = "left, and nobody had pinned it")]
fn planted_opening_the_range_first_is_caught() {
    removal_and_a_fault(Some(Bug::OpenFirst));
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_waking_nobody_is_caught() {
    removal_and_a_fault(Some(Bug::NoWake));
}

/// A second stage of one uses the page without a reference while the other removes it from both, and touches it again.
fn removal_and_a_subscriber(planted: Option<Bug>) {
    explore(PREEMPTIONS, planted, || {
        let guests = one_has_it();
        guests[1].access(PAGES[0]);
        let device = Arc::new(Device::new(&guests[1].pool));
        guests[1].mm.owner().register(device.clone()).unwrap();
        let working = spawn(&guests[1], move |guest| device.work(guest));
        guests[0].mm.discard(first_page()).unwrap();
        guests[0].access(PAGES[0]);
        working.join().unwrap();

        check_and_end(guests);
    });
}

#[test]
fn a_subscriber_of_either_uses_no_frame_that_was_freed() {
    removal_and_a_subscriber(None);
}

#[test]
#[should_panic(expected = "used after it was taken away")]
fn planted_telling_only_the_own_subscribers_is_caught() {
    removal_and_a_subscriber(Some(Bug::TellOnlyOwn));
}

/// A device pins the page through one and uses it, while the other removes it from both and touches it again.
fn removal_and_a_pin(planted: Option<Bug>) {
    explore(PREEMPTIONS, planted, || {
        let guests = one_has_it();
        guests[1].access(PAGES[0]);
        let device = spawn(&guests[1], |guest| {
            if let Ok(pin) = guest.mm.table.pin(first_page(), true, guest.mm.folios()) {
                guest.use_page(PAGES[0]);
                drop(pin);
            }
        });
        let discarded = guests[0].mm.discard(first_page()).unwrap();
        guests[0].access(PAGES[0]);
        device.join().unwrap();

        assert_eq!(discarded.freed_bytes + discarded.pinned_bytes, PAGE_SIZE);
        check_and_end(guests);
    });
}

#[test]
fn what_is_pinned_through_one_is_not_freed_by_the_other() {
    removal_and_a_pin(None);
}

#[test]
#[should_panic(expected = "left: (1, 1)")]
fn planted_looking_then_freeing_is_caught() {
    removal_and_a_pin(Some(Bug::LookThenFree));
}

/// One touches the page while the other does not need it any more: its content stays.
#[test]
fn unmapping_and_a_fault() {
    explore(PREEMPTIONS, None, || {
        let guests = one_has_it();
        let other = spawn(&guests[1], |guest| {
            guest.access(PAGES[0]);
            guest.use_page(PAGES[0]);
        });
        guests[0].mm.dont_need(first_page()).unwrap();
        other.join().unwrap();

        let mapped = guests.each_ref().map(|guest| guest.mm.table.walk(PAGES[0]).is_present());
        assert_eq!(mapped, [false, true]);
        check_and_end(guests);
    });
}
