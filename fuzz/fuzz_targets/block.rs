//! A disk: through the page cache, past it, or only to be read.
#![no_main]

use std::{path::PathBuf, sync::OnceLock};

use libfuzzer_sys::{arbitrary, fuzz_target};
use underlay_fuzz::{Step, drive};
use vmm::virtio::block::{Block, DriveConfig};

const BYTES: u64 = 64 << 10;
static DISK: OnceLock<tempfile::NamedTempFile> = OnceLock::new();

#[derive(arbitrary::Arbitrary, Debug)]
struct Input {
    direct: bool,
    read_only: bool,
    steps: Vec<Step>,
}

fuzz_target!(|input: Input| {
    let disk = DISK.get_or_init(|| {
        let disk = tempfile::NamedTempFile::new().expect("a place for files");
        disk.as_file().set_len(BYTES).expect("room");
        disk
    });
    let Input { direct, read_only, steps } = input;
    let config = DriveConfig { direct, read_only, ..DriveConfig::new("disk", PathBuf::from(disk.path())) };
    drive(Block::new(config).expect("the disk opens"), &steps);
    assert_eq!(disk.as_file().metadata().expect("it is open").len(), BYTES);
});
