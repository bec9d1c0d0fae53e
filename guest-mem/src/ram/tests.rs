use std::fs;
use std::num::NonZeroUsize;

use mmu_notifier::PAGE_SIZE;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::testing::{config, map_at, maps_with, ram};
use crate::{GuestRamConfig, Prefault};

mod discards;
mod injected;
mod managed;
#[cfg(feature = "testing")]
mod managed_huge;
mod managed_shrink;
mod shared;
mod stalls;

const M: u64 = 1 << 20;

/// `len` bytes from `offset` into the RAM on.
#[track_caller]
fn part(ram: &GuestRam, offset: u64, len: u64) -> AddressRange {
    AddressRange::new(ram.range().start() + offset, len).unwrap()
}

/// Fills `range` with a byte.
#[track_caller]
fn fill(ram: &GuestRam, range: AddressRange, byte: u8) {
    let bytes = vec![byte; usize::try_from(range.len()).unwrap()];
    ram.view().write_slice(&bytes, GuestAddress(range.start())).unwrap();
}

/// Asserts that every byte of `range` is `byte`.
#[track_caller]
fn assert_filled(ram: &GuestRam, range: AddressRange, byte: u8) {
    let mut bytes = vec![!byte; usize::try_from(range.len()).unwrap()];
    ram.view().read_slice(&mut bytes, GuestAddress(range.start())).unwrap();
    assert!(bytes.iter().all(|&found| found == byte), "{range} is not all {byte}");
}

#[track_caller]
fn resident(ram: &GuestRam) -> u64 {
    ram.report().unwrap().resident_bytes.unwrap()
}

#[test]
fn a_file_is_what_its_ram_begins_and_ends_as() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), vec![5; 3 << 20]).unwrap();
    let ram = ram("file", Backing::File(file.path().into()), "2M");
    assert_filled(&ram, ram.range(), 5);

    fill(&ram, part(&ram, 0, M), 6);
    assert_filled(&ram, part(&ram, 0, M), 6);

    let discarded = ram.discard(ram.range()).unwrap();
    assert_eq!(discarded.freed_bytes, 2 * M);
    assert_filled(&ram, ram.range(), 5);
    assert_eq!(fs::read(file.path()).unwrap(), vec![5; 3 << 20]);
}

#[test]
fn shared_memory_is_named() {
    let ram = ram("my guest", Backing::Shmem, "2M");
    let line = map_at(ram.host_address().get()).unwrap();
    assert!(line.contains("/memfd:underlay:my_guest:ram"), "{line}");
}

#[test]
fn neighbours_of_one_name_are_reported_apart() {
    let rams: Vec<_> = (0..4).map(|_| ram("twin", Backing::Anonymous, "2M")).collect();

    fill(&rams[2], rams[2].range(), 1);

    let resident: Vec<_> = rams.iter().map(resident).collect();
    assert_eq!(resident, [0, 0, 2 * M, 0]);
    for ram in &rams {
        let start = ram.host_address().get();
        let addresses = format!("{start:08x}-{:08x} ", start + 2 * M);
        assert!(map_at(start).unwrap().starts_with(&addresses));
    }
}

#[test]
fn prefault_makes_every_page_resident() {
    for backing in [Backing::Anonymous, Backing::Shmem] {
        let prefault = Some(Prefault { threads: NonZeroUsize::new(3).unwrap() });
        let config = GuestRamConfig { prefault, ..config("prefault", backing, "40M") };

        let ram = GuestRam::create(config).unwrap();

        assert_eq!(resident(&ram), 40 * M);
    }
}

#[test]
fn prefault_of_a_file_makes_no_private_copy() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), vec![5; 2 << 20]).unwrap();
    let prefault = Some(Prefault { threads: NonZeroUsize::MIN });
    let backing = Backing::File(file.path().into());
    let config = GuestRamConfig { prefault, ..config("prefault-file", backing, "2M") };

    let ram = GuestRam::create(config).unwrap();

    assert_eq!(resident(&ram), 2 * M);
    // A page that was copied would no longer follow the file.
    fs::write(file.path(), vec![6; 2 << 20]).unwrap();
    assert_filled(&ram, ram.range(), 6);
}

#[test]
fn a_clone_of_the_view_keeps_the_memory() {
    let ram = ram("clone", Backing::Shmem, "2M");
    let start = GuestAddress(ram.range().start());
    let view = ram.view().clone();

    drop(ram);

    view.write_obj(7_u64, start).unwrap();
    assert_eq!(view.read_obj::<u64>(start).unwrap(), 7);
    drop(view);
    assert!(maps_with("underlay:clone:").is_empty());
}

#[test]
fn a_panic_unmaps() {
    let thread = std::thread::spawn(|| {
        let _ram = ram("panic", Backing::Shmem, "2M");
        assert_eq!(maps_with("underlay:panic:").len(), 1);
        std::panic::resume_unwind(Box::new(()));
    });

    assert!(thread.join().is_err());

    assert_eq!(maps_with("underlay:panic:"), [""; 0]);
}

#[test]
fn guest_ram_goes_to_other_threads() {
    fn assert_send_and_sync<T: Send + Sync>() {}
    assert_send_and_sync::<GuestRam>();
    assert_send_and_sync::<GuestMemoryView>();
}
