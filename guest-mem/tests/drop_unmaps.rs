//! Dropping guest RAM unmaps it. A program of its own: elsewhere another test may map something at the same address.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use guest_mem::{Backing, GuestRam, GuestRamConfig};

/// The parts of this process's memory map that begin at `address`.
fn mapped_at(address: u64) -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.starts_with(&format!("{address:08x}-"))).count()
}

#[test]
fn dropping_unmaps_every_backing_that_needs_no_setup() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(4 << 20).unwrap();
    let file = Backing::File(file.path().into());
    for backing in [Backing::Anonymous, Backing::Shmem, file] {
        let ram = GuestRam::create(GuestRamConfig::new("4M".parse().unwrap(), backing)).unwrap();
        let address = ram.host_address().get();
        assert_eq!(mapped_at(address), 1);

        drop(ram);

        assert_eq!(mapped_at(address), 0);
    }
}
