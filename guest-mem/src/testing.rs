//! What tests with real memory share.

use std::fs;

use vm_memory::GuestAddress;

use crate::{Backing, GuestRam, GuestRamConfig};

/// RAM of `size` at guest-physical 4 GiB that is called `guest` in the memory map.
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

/// The lines of this process's memory map that hold `text`.
pub(crate) fn maps_with(text: &str) -> Vec<String> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

/// The line of this process's memory map for the mapping that begins at `address`.
pub(crate) fn map_at(address: u64) -> Option<String> {
    let start = format!("{address:08x}-");
    maps_with(&start).into_iter().find(|line| line.starts_with(&start))
}
