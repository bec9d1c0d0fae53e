//! Managed RAM in huge pages; skipped, and said so, where none can be reserved.

use std::thread;

use super::*;
use crate::{
    ChangeError, FaultReason, HostSettings, HugePagePool, HugePageSize, ManagedConfig, Stock,
    vma::{HugePolicy, VmaChange},
};

const HUGE: u64 = 2 * M;

/// Settings with exactly `pages` huge pages, and RAM of as many, by `managed`.
fn ram(pages: u64, managed: ManagedConfig) -> Option<(HostSettings, GuestRam)> {
    ram_of("vm", pages, managed)
}

/// The same, of a VM of this name.
fn ram_of(guest: &str, pages: u64, managed: ManagedConfig) -> Option<(HostSettings, GuestRam)> {
    let settings = match HostSettings::lock().unwrap().with_huge_pages(HugePageSize::Mb2, pages) {
        Ok(settings) => settings,
        Err(refused) => {
            println!("skipped: {refused}");
            return None;
        }
    };
    let size = ByteSize::new(pages * HUGE).unwrap();
    let guest = guest.to_owned();
    let config = GuestRamConfig { guest, managed, ..GuestRamConfig::new(size, Backing::Managed2mb) };
    Some((settings, GuestRam::create(config).unwrap()))
}

#[test]
fn a_huge_page_is_mapped_at_its_first_touch_and_freed_with_its_last_page() {
    let Some((_settings, ram)) = ram(4, ManagedConfig::default()) else { return };
    let mm = ram.mm().unwrap();
    mm.pool().wait_until_stocked();
    fill(&ram, ram.range(), 7);
    assert_eq!(mm.page_table().mapped().huge, 4);
    let stats = mm.stats();
    assert_eq!(stats.of(FaultReason::Huge) + stats.of(FaultReason::Around), 4);
    assert!(stats.of(FaultReason::Around) > 0, "none was mapped around another");

    let quarter = HUGE / 4;
    for number in 0..4 {
        let discarded = ram.discard(part(&ram, HUGE + number * quarter, quarter)).unwrap();
        assert_eq!(discarded.zeroed_bytes, quarter);
    }

    assert_eq!(mm.page_table().mapped().huge, 3);
    assert_filled(&ram, part(&ram, 0, HUGE), 7);
    assert_filled(&ram, part(&ram, HUGE, HUGE), 0);
    assert_filled(&ram, part(&ram, 2 * HUGE, 2 * HUGE), 7);
}

#[test]
fn what_is_written_to_a_discarded_part_is_kept_when_the_rest_is_discarded() {
    let Some((_settings, ram)) = ram(1, ManagedConfig::default()) else { return };
    fill(&ram, ram.range(), 7);
    ram.discard(part(&ram, 0, M)).unwrap();
    assert_filled(&ram, part(&ram, 0, M), 0);
    fill(&ram, part(&ram, 0, PAGE_SIZE), 8);

    ram.discard(part(&ram, M, M)).unwrap();

    assert_filled(&ram, part(&ram, 0, PAGE_SIZE), 8);
    assert_filled(&ram, part(&ram, PAGE_SIZE, HUGE - PAGE_SIZE), 0);
}

#[test]
fn a_discard_races_with_touches_of_the_only_huge_page_there_is() {
    let Some((_settings, ram)) = ram(1, ManagedConfig::default()) else { return };
    let ram = &ram;
    thread::scope(|scope| {
        let writer = scope.spawn(move || {
            for round in 1..2000_u64 {
                ram.view().write_obj(round, GuestAddress(8)).unwrap();
                let read = ram.view().read_obj::<u64>(GuestAddress(8)).unwrap();
                assert!(read == round || read == 0, "{read} in round {round}");
            }
        });
        while !writer.is_finished() {
            ram.discard(ram.range()).unwrap();
        }
    });

    ram.discard(ram.range()).unwrap();

    assert_filled(ram, ram.range(), 0);
}

#[test]
fn a_gibibyte_costs_two_mappings_and_gives_its_pages_back() {
    let Some((_settings, ram)) = ram_of("two-mappings", 512, ManagedConfig::default()) else { return };
    fill(&ram, part(&ram, 0, 3 * HUGE), 7);
    fill(&ram, part(&ram, 500 * HUGE, 3 * HUGE), 7);

    let mappings = maps_with("two-mappings");

    // The guest's, and the manager's own.
    assert_eq!(mappings.len(), 2, "{mappings:#?}");
    assert_eq!(HugePagePool::read(HugePageSize::Mb2).unwrap().available(), 0);
    drop(ram);
    assert_eq!(maps_with("two-mappings"), [""; 0]);
    assert_eq!(HugePagePool::read(HugePageSize::Mb2).unwrap().available(), 512);
}

#[test]
fn a_change_of_part_of_a_huge_page_is_refused() {
    let Some((_settings, ram)) = ram(2, ManagedConfig::default()) else { return };
    let mm = ram.mm().unwrap();

    let change = mm.modify(part(&ram, 0, HUGE + M), &VmaChange::Writable(false));
    let never = mm.modify(part(&ram, 0, HUGE), &VmaChange::Huge(HugePolicy::Never));

    assert!(matches!(change, Err(ChangeError::PartOfHugePage { .. })), "{change:?}");
    assert!(matches!(never, Err(ChangeError::HugeOnly { .. })), "{never:?}");
    mm.modify(part(&ram, 0, HUGE), &VmaChange::Writable(false)).unwrap();
    assert_filled(&ram, ram.range(), 0);
}

/// Whether shared memory has transparent huge pages.
const SHMEM_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// RAM of transparent huge pages, on a host that is made to give them.
fn transparent(pages: u64, managed: ManagedConfig) -> Option<(HostSettings, GuestRam)> {
    let settings = match HostSettings::lock().unwrap().set(SHMEM_ENABLED, "advise") {
        Ok(settings) => settings,
        Err(refused) => {
            println!("skipped: {refused}");
            return None;
        }
    };
    let size = ByteSize::new(pages * HUGE).unwrap();
    let config = GuestRamConfig { managed, ..GuestRamConfig::new(size, Backing::ManagedThp) };
    Some((settings, GuestRam::create(config).unwrap()))
}

#[test]
fn transparent_huge_pages_are_mapped_in_place_and_back() {
    let Some((_settings, ram)) = transparent(4, ManagedConfig::default()) else { return };
    let mm = ram.mm().unwrap();
    mm.pool().wait_until_stocked();
    fill(&ram, ram.range(), 7);
    let start = ram.host_address().get();
    let huge = || Smaps::of(start..start + 4 * HUGE).unwrap().thp;
    assert_eq!(huge(), 4 * HUGE);

    mm.modify(part(&ram, 0, HUGE), &VmaChange::DirtyTracked(true)).unwrap();
    fill(&ram, part(&ram, 0, PAGE_SIZE), 8);
    ram.discard(part(&ram, 2 * HUGE, M)).unwrap();
    ram.discard(part(&ram, 3 * HUGE, HUGE)).unwrap();

    assert_filled(&ram, part(&ram, 0, PAGE_SIZE), 8);
    assert_filled(&ram, part(&ram, PAGE_SIZE, 2 * HUGE - PAGE_SIZE), 7);
    assert_filled(&ram, part(&ram, 2 * HUGE, M), 0);
    assert_filled(&ram, part(&ram, 2 * HUGE + M, M), 7);
    assert_filled(&ram, part(&ram, 3 * HUGE, HUGE), 0);
    assert!(huge() >= 2 * HUGE, "{:#x}", huge());
}

#[test]
fn where_the_host_has_no_transparent_huge_page_small_ones_are_mapped() {
    let managed = ManagedConfig { stock: Stock::None, ..ManagedConfig::default() };
    let Some((settings, ram)) = transparent(2, managed) else { return };
    let mm = ram.mm().unwrap();
    // How many there are, and how many there should be as well: memory may be in pieces here. To leave a range to the
    // kernel wakes whoever waits there, so the handler may still be at work.
    let huge = |sum| {
        for _ in 0..10_000 {
            let now = (mm.page_table().mapped().huge, mm.stats().of(FaultReason::HugeFallback));
            if now.0 + now.1 == sum {
                return now;
            }
            thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("{:?}: {:?}", mm.page_table().mapped(), mm.stats());
    };
    fill(&ram, part(&ram, 0, HUGE), 7);
    let (first, missing) = huge(1);

    // As if it were.
    let settings = settings.set(SHMEM_ENABLED, "never").unwrap();
    fill(&ram, part(&ram, HUGE, HUGE), 8);

    assert_eq!(huge(2), (first, missing + 1));
    assert_eq!(mm.page_table().mapped().base, (2 - first) * HUGE / PAGE_SIZE);
    assert_filled(&ram, part(&ram, 0, HUGE), 7);
    assert_filled(&ram, part(&ram, HUGE, HUGE), 8);
    let _settings = settings.set(SHMEM_ENABLED, "advise").unwrap();
    ram.discard(ram.range()).unwrap();
    mm.pool().assert_all_free();
    fill(&ram, ram.range(), 9);
    huge(2 + missing + 1);
    assert_filled(&ram, ram.range(), 9);
}

#[test]
fn a_view_that_is_left_takes_no_huge_page_from_the_next_ram() {
    let Some((_settings, old)) = ram(2, ManagedConfig::default()) else { return };
    fill(&old, part(&old, 0, HUGE), 7);
    let (view, start) = (old.view().clone(), GuestAddress(old.range().start()));
    drop(old);
    assert_eq!(HugePagePool::read(HugePageSize::Mb2).unwrap().available(), 2);

    let size = ByteSize::new(2 * HUGE).unwrap();
    let new = GuestRam::create(GuestRamConfig::new(size, Backing::Managed2mb)).unwrap();
    fill(&new, new.range(), 8);

    let mut bytes = vec![1; usize::try_from(2 * HUGE).unwrap()];
    view.read_slice(&mut bytes, start).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0), "plain memory");
    view.write_slice(&bytes, start).unwrap();
    assert_filled(&new, new.range(), 8);
}

#[test]
fn a_view_of_transparent_huge_pages_that_is_left_is_plain_memory() {
    let Some((_settings, ram)) = transparent(2, ManagedConfig::default()) else { return };
    fill(&ram, part(&ram, 0, HUGE), 7);
    let view = ram.view().clone();

    drop(ram);

    let mut bytes = vec![1; usize::try_from(2 * HUGE).unwrap()];
    view.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    assert_eq!(maps_with("underlay:vm:ram"), [""; 0]);
}
