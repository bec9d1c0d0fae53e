//! Guest RAM as these tests want it, and what they ask of it.

use std::fs;

use guest_mem::{Backing, GuestRam, GuestRamConfig, HugePagePool, HugePageSize};
use mmu_notifier::AddressRange;
use underlay_tests::Need;
use vm_memory::{Bytes, GuestAddress};

pub(crate) const M: u64 = 1 << 20;
pub(crate) const PAGE: u64 = 4096;

/// The two backings by huge pages of 2 MiB.
pub(crate) const HUGETLB: [Backing; 2] = [Backing::AnonymousHugetlb2mb, Backing::SharedHugetlb2mb];

/// So many huge pages of 2 MiB.
pub(crate) const fn pages_of_2m(pages: u64) -> Need {
    Need::HugePages(HugePageSize::Mb2, pages)
}

/// How many huge pages of 2 MiB nobody was promised.
#[track_caller]
pub(crate) fn available() -> u64 {
    HugePagePool::read(HugePageSize::Mb2).unwrap().available()
}

/// RAM of `size` at guest-physical 4 GiB that is called `guest` in the memory map.
#[track_caller]
pub(crate) fn config(guest: &str, backing: Backing, size: &str) -> GuestRamConfig {
    GuestRamConfig {
        guest: guest.to_owned(),
        guest_base: GuestAddress(4 << 30),
        ..GuestRamConfig::new(size.parse().unwrap(), backing)
    }
}

/// RAM as by [`config`].
#[track_caller]
pub(crate) fn ram(guest: &str, backing: Backing, size: &str) -> GuestRam {
    GuestRam::create(config(guest, backing, size)).unwrap()
}

/// `len` bytes from `offset` into the RAM on.
#[track_caller]
pub(crate) fn part(ram: &GuestRam, offset: u64, len: u64) -> AddressRange {
    AddressRange::new(ram.range().start() + offset, len).unwrap()
}

/// Fills `range` with a byte.
#[track_caller]
pub(crate) fn fill(ram: &GuestRam, range: AddressRange, byte: u8) {
    let bytes = vec![byte; usize::try_from(range.len()).unwrap()];
    ram.view().write_slice(&bytes, GuestAddress(range.start())).unwrap();
}

/// Asserts that every byte of `range` is `byte`.
#[track_caller]
pub(crate) fn assert_filled(ram: &GuestRam, range: AddressRange, byte: u8) {
    let mut bytes = vec![!byte; usize::try_from(range.len()).unwrap()];
    ram.view().read_slice(&mut bytes, GuestAddress(range.start())).unwrap();
    assert!(bytes.iter().all(|&found| found == byte), "{range} is not all {byte}");
}

#[track_caller]
pub(crate) fn resident(ram: &GuestRam) -> u64 {
    ram.report().unwrap().resident_bytes.unwrap()
}

/// How many lines of this process's memory map hold `text`.
pub(crate) fn mapped(text: &str) -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains(text)).count()
}

/// The line of /proc/self/`file` for the mapping that begins `offset` bytes into the RAM.
#[track_caller]
pub(crate) fn line_of(file: &str, ram: &GuestRam, offset: u64) -> String {
    let start = format!("{:08x}", ram.host_address().get() + offset);
    let lines = fs::read_to_string(format!("/proc/self/{file}")).unwrap();
    let line = lines.lines().find(|line| line.starts_with(&start));
    line.unwrap_or_else(|| panic!("nothing begins at {start}")).to_owned()
}
