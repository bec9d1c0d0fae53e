//! Linux and its disk: what the guest writes is what the host reads, and the other way round.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
};

use guest_mem::{Backing, ByteSize};
use tempfile::TempDir;
use underlay_tests::{Need, Suite};
use vmm::{
    memory::MemoryConfig,
    microvm::Ending,
    virtio::block::{Block, Disk, DriveConfig, OpenDiskError},
};

use super::support::{Guest, M};

const NEEDS: [Need; 3] = [Need::Kvm, Need::Linux, Need::Program("sha256sum")];

pub(crate) fn add_to(suite: &mut Suite) {
    suite.test("disk::what_the_guest_writes_is_what_the_host_reads", &NEEDS, || {
        written(Backing::Anonymous, false);
    });
    let needs = [NEEDS[0], NEEDS[1], NEEDS[2], Need::ManagedFaults];
    suite.test("disk::direct_io_reaches_managed_memory", &needs, || written(Backing::Managed4kb, true));
    suite.test("disk::one_that_is_read_only_stays_as_it_is", &NEEDS, read_only);
    suite.test("disk::what_the_guest_discards_takes_no_room", &NEEDS, discarded);
}

/// A disk of 1 MiB with something on it.
fn image(directory: &TempDir) -> std::path::PathBuf {
    let path = directory.path().join("disk");
    let bytes: Vec<u8> = (0..M / 8).flat_map(|word| (word * 0x9e37_79b9).to_le_bytes()).collect();
    fs::write(&path, bytes).unwrap();
    // On the host's disk before blocks are counted.
    File::open(&path).unwrap().sync_all().unwrap();
    path
}

/// Boots a guest that runs `tests` on the disk at `path`, and returns its console.
#[track_caller]
fn run(backing: Backing, config: DriveConfig, tests: &str) -> String {
    let path = config.path.clone();
    let read_only = config.read_only;
    let memory = MemoryConfig::new(ByteSize::new(64 * M).unwrap(), backing);
    let guest = Guest::boot_with(memory, 1, tests, |vm| {
        vm.attach(Arc::new(Mutex::new(Block::new(config).unwrap()))).unwrap();
    });
    guest.wait_for("init: start", 1);
    // It is locked for as long as the guest has it.
    if !read_only {
        assert!(matches!(Disk::open(&path, true, false), Err(OpenDiskError::InUse { .. })));
    }
    let (ending, text) = guest.finish();
    assert!(matches!(ending, Ending::Exited(0)), "{ending:?}\n{text}");
    Disk::open(&path, true, false).unwrap();
    text
}

/// What the guest said its `test` found on the disk.
#[track_caller]
fn guests_sum(console: &str, test: &str) -> String {
    let line = console.lines().find(|line| line.contains(&format!("init: {test} "))).unwrap();
    line.split("sha256=").nth(1).unwrap().trim().to_owned()
}

#[track_caller]
fn hosts_sum(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

fn written(backing: Backing, direct: bool) {
    let directory = tempfile::tempdir().unwrap();
    let path = image(&directory);
    let before = hosts_sum(&path);

    let console = run(backing, DriveConfig { direct, ..DriveConfig::new("disk", &path) }, "disk");

    assert_eq!(guests_sum(&console, "disk-read"), before);
    assert_eq!(guests_sum(&console, "disk-write"), hosts_sum(&path));
    assert_ne!(hosts_sum(&path), before);
}

fn read_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = image(&directory);
    let before = (hosts_sum(&path), fs::metadata(&path).unwrap().mtime());

    let config = DriveConfig { read_only: true, ..DriveConfig::new("disk", &path) };
    let console = run(Backing::Anonymous, config, "disk-readonly,disk-read");

    assert_eq!(guests_sum(&console, "disk-read"), before.0);
    assert_eq!((hosts_sum(&path), fs::metadata(&path).unwrap().mtime()), before);
}

fn discarded() {
    let directory = tempfile::tempdir().unwrap();
    let path = image(&directory);
    assert_eq!(fs::metadata(&path).unwrap().blocks(), M / 512);

    let console = run(Backing::Anonymous, DriveConfig::new("disk", &path), "disk-discard");

    assert_eq!(fs::metadata(&path).unwrap().blocks(), 0);
    assert_eq!(fs::metadata(&path).unwrap().len(), M);
    assert_eq!(guests_sum(&console, "disk-discard"), hosts_sum(&path));
}
