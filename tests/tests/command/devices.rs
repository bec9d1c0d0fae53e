//! Devices that cannot be had: `underlay run` says which and why, and leaves nothing half-made behind.

use std::{fs, path::Path};

use nix::{sys::stat::Mode, unistd::mkfifo};
use tempfile::TempDir;
use underlay_tests::{Need, Suite, in_own_network, underlay, write_tiny_kernel};

use super::bad_input::says;

/// jmp .
const SPIN: &[u8] = &[0xeb, 0xfe];

pub(crate) fn add_to(suite: &mut Suite) {
    suite.test("devices::disks_that_are_none", &[Need::Kvm], disks);
    suite.test("devices::more_than_there_is_room_for", &[Need::Kvm], too_many);
    let tap = [Need::Kvm, Need::Root, Need::Program("ip")];
    suite.test("devices::tap_devices_that_are_none", &tap, || in_own_network(taps));
    suite.test("devices::a_balloon_larger_than_ram", &[Need::Kvm], || {
        refused(
            &folder(),
            &["--balloon", "17"],
            &["a balloon of 17 MiB is larger than the guest's memory of 16 MiB"],
        );
    });
}

/// A folder with a guest that would run.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_kernel(&folder.path().join("kernel"), SPIN);
    folder
}

/// Refuses to run with `options`, and removes what it has made.
#[track_caller]
fn refused(folder: &TempDir, options: &[&str], words: &[&str]) {
    let path = |name: &str| folder.path().join(name).display().to_string();
    let [kernel, socket, metrics, log] = ["kernel", "api", "metrics", "log"].map(path);
    let run = ["run", "--mem", "16M", "--kernel", &kernel, "--api-sock", &socket];
    let files = ["--metrics", &metrics, "--log-path", &log];

    says(&underlay(&[&run[..], &files, options].concat()), 2, words);

    for made in [socket, metrics, log] {
        assert!(!Path::new(&made).exists(), "{made} is there");
    }
}

fn disks() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("short"), [0; 511]).unwrap();
    mkfifo(Path::new(&path("fifo")), Mode::S_IRWXU).unwrap();
    let refused = |options: &[&str], words: &[&str]| refused(&folder, options, words);

    refused(&["--disk", &path("")], &["disk0", "is a directory"]);
    refused(&["--disk", &path("missing")], &["disk0", "there is no disk", "missing", "truncate -s"]);
    refused(&["--disk", &path("fifo")], &["fifo is neither a file nor a block device"]);
    refused(&["--disk", &path("short")], &["has 511 bytes", "at least 512"]);
    refused(&["--disk", "/proc/version"], &["/proc/version"]);
    refused(&["--disk", &format!("{},ro", path("missing"))], &["there is no disk"]);
    let disk = path("disk");
    fs::write(&disk, [0; 4096]).unwrap();
    refused(&["--disk", &disk, "--disk", &disk], &["disk1", "in use by another microVM, or by this one"]);
    assert_eq!(fs::read(&disk).unwrap(), [0; 4096]);
    assert!(!Path::new(&path("missing")).exists(), "nothing is made in the place of what is missing");
}

fn too_many() {
    let folder = folder();
    let disk = folder.path().join("disk");
    fs::write(&disk, [0; 512]).unwrap();
    let disk = format!("{},ro", disk.display());

    refused(&folder, &["--disk", &disk].repeat(20), &["room for 19 devices and no more"]);
}

fn taps() {
    let folder = folder();
    let refused = |tap: &str, words: &[&str]| refused(&folder, &["--net", &format!("tap={tap}")], words);

    refused(
        "tap-missing",
        &["net0", "there is no network interface tap-missing", "ip tuntap add dev tap-missing"],
    );
    refused("lo", &["lo is no tap device"]);
    refused("a name", &["is no name of a network interface"]);
    refused("a-name-that-is-too-long", &["is no name of a network interface"]);
    let interfaces = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    assert!(!interfaces.contains("tap-missing"), "none is made in its place");
}
