use std::fs;

use super::*;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn image(directory: &tempfile::TempDir, bytes: u64) -> PathBuf {
    let path = directory.path().join("disk");
    File::create(&path).unwrap().set_len(bytes).unwrap();
    path
}

#[test]
fn what_is_no_disk_is_refused_with_its_reason() {
    let directory = directory();
    let open = |path: &Path| Disk::open(path, false, false).unwrap_err();

    assert!(matches!(open(directory.path()), OpenDiskError::Directory { .. }));
    assert!(matches!(open(&directory.path().join("none")), OpenDiskError::Missing { .. }));
    assert!(matches!(open(Path::new("/dev/null")), OpenDiskError::NotADisk { .. }));
    assert!(matches!(open(&image(&directory, 511)), OpenDiskError::TooSmall { bytes: 511, block: 512, .. }));
    let error = open(directory.path()).to_string();
    assert!(
        error.ends_with("is a directory: give a file, or a block device, that holds the disk's bytes"),
        "{error}"
    );
}

#[test]
fn a_pipe_is_refused_without_waiting_for_its_writer() {
    let directory = directory();
    let path = directory.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();

    assert!(matches!(Disk::open(&path, true, false), Err(OpenDiskError::NotADisk { .. })));
}

#[test]
fn a_disk_has_one_writer_or_any_number_of_readers() {
    let directory = directory();
    let path = image(&directory, 4096);

    let writer = Disk::open(&path, false, false).unwrap();
    for read_only in [false, true] {
        let refused = Disk::open(&path, read_only, false);
        assert!(matches!(refused, Err(OpenDiskError::InUse { .. })), "{refused:?}");
    }
    drop(writer);
    let _readers = [Disk::open(&path, true, false).unwrap(), Disk::open(&path, true, false).unwrap()];
    assert!(matches!(Disk::open(&path, false, false), Err(OpenDiskError::InUse { .. })));
}

#[test]
fn the_guest_sees_whole_sectors() {
    let directory = directory();
    let path = image(&directory, 3 * 512 + 100);

    let disk = Disk::open(&path, true, false).unwrap();

    assert_eq!(disk.size(), 3 * 512);
    disk.check(2 * 512, 512).unwrap();
    disk.check(2 * 512, 513).unwrap_err();
    disk.check(u64::MAX, 512).unwrap_err();
}

#[test]
fn another_file_or_the_same_one_takes_the_disks_place() {
    let directory = directory();
    let path = image(&directory, 4096);
    let other = directory.path().join("other");
    File::create(&other).unwrap().set_len(8192).unwrap();
    let mut disk = Disk::open(&path, false, false).unwrap();

    // Grown meanwhile.
    File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
    disk.replace(&path, false, false).unwrap();
    assert_eq!(disk.size(), 1 << 20);
    disk.replace(directory.path(), false, false).unwrap_err();
    assert_eq!(disk.size(), 1 << 20);
    disk.replace(&other, false, false).unwrap();

    assert_eq!(disk.size(), 8192);
    assert!(matches!(Disk::open(&other, false, false), Err(OpenDiskError::InUse { .. })));
    Disk::open(&path, false, false).unwrap();
}

#[test]
fn a_disk_stays_locked_when_its_own_file_cannot_be_opened_again() {
    let directory = directory();
    let path = image(&directory, 4096);
    let mut disk = Disk::open(&path, false, false).unwrap();

    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    disk.replace(&path, false, false).unwrap_err();

    assert!(matches!(Disk::open(&path, false, false), Err(OpenDiskError::InUse { .. })));
}

#[test]
fn zeros_are_written_where_the_file_system_cannot() {
    let directory = directory();
    let path = image(&directory, 256 << 10);
    fs::write(&path, vec![7; 256 << 10]).unwrap();
    for direct in [false, true] {
        let disk = Disk::open(&path, false, direct).unwrap();

        disk.fill(4096, 68 << 10).unwrap();

        let bytes = fs::read(&path).unwrap();
        assert!(bytes[..4096].iter().all(|byte| *byte == 7));
        assert!(bytes[4096..72 << 10].iter().all(|byte| *byte == 0));
        assert!(bytes[72 << 10..].iter().all(|byte| *byte == 7));
        fs::write(&path, vec![7; 256 << 10]).unwrap();
    }
}
