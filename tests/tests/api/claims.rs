//! What a running microVM has of its host: nobody else gets it meanwhile, and whoever comes after it does, even after
//! SIGKILL, which nobody can clean up after.

use std::fs;

use guest_mem::{Backing, HugePagePool, HugePageSize};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use underlay_tests::{Need, Suite, TAP, huge_pages, in_own_network, ip, underlay, write_tiny_kernel};

use super::served::{Served, wait_until};

/// Touches each of the 8 huge pages, and says so:
/// mov $0x200000, %edi; 1: movb $1, (%rdi); add $0x200000, %edi; cmp $0x1000000, %edi; jb 1b;
/// mov $0x3f8, %dx; mov $'!', %al; out %al, (%dx); jmp .
const TOUCH: &[u8] = &[
    0xbf, 0x00, 0x00, 0x20, 0x00, 0xc6, 0x07, 0x01, 0x81, 0xc7, 0x00, 0x00, 0x20, 0x00, 0x81, 0xff, 0x00,
    0x00, 0x00, 0x01, 0x72, 0xef, 0x66, 0xba, 0xf8, 0x03, 0xb0, b'!', 0xee, 0xeb, 0xfe,
];
const BYTES: u64 = 16 << 20;

pub(crate) fn add_to(suite: &mut Suite) {
    let pages = Need::HugePages(HugePageSize::Mb2, BYTES / HugePageSize::Mb2.bytes());
    let tap = [Need::Root, Need::Program("ip")];
    let needs = [&[Need::Kvm, Need::ManagedFaults, pages, Need::Program("curl")], &tap[..]].concat();
    suite.test("claims::are_refused_to_others_while_it_runs", &needs, || in_own_network(held));
    suite.test("claims::are_free_for_a_second_start_after_sigkill", &needs, || in_own_network(killed));
}

/// A folder with what the microVM needs.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_kernel(&folder.path().join("kernel"), TOUCH);
    fs::write(folder.path().join("disk"), vec![0; 1 << 20]).unwrap();
    folder
}

/// The options of a microVM that has one of everything, with its files in `folder`.
fn options(folder: &TempDir) -> Vec<String> {
    let path = |name: &str| folder.path().join(name).display().to_string();
    let net = format!("tap={TAP}");
    let (kernel, disk, metrics, log) = (path("kernel"), path("disk"), path("metrics"), path("log"));
    let options = [
        ["--kernel", &kernel],
        ["--mem", "16M"],
        ["--backing", "managed_2mb"],
        ["--disk", &disk],
        ["--net", &net],
        ["--balloon", "0"],
        ["--metrics", &metrics],
        ["--log-path", &log],
    ];
    options.concat().into_iter().map(str::to_owned).collect()
}

/// Starts it, and waits until it has touched all of its RAM.
fn start() -> Served {
    let folder = folder();
    let options = options(&folder);
    let mut vm = Served::start_in(folder, &options);
    vm.wait_for("!");
    vm
}

fn held() {
    let _pages = huge_pages(&Backing::Managed2mb, BYTES);
    let vm = start();
    let kernel = vm.path("kernel");
    let refused = |option: &str, value: &str, code: i32, words: &str| {
        let second = underlay(&["run", "--kernel", &kernel, "--mem", "16M", option, value]);
        assert_eq!(second.code, Some(code), "{second:?}");
        assert!(second.stderr.contains(words), "{second:?}");
    };

    refused("--disk", &vm.path("disk"), 2, "is in use by another microVM");
    refused("--disk", &format!("{},ro", vm.path("disk")), 2, "is in use by another microVM");
    refused("--net", &format!("tap={TAP}"), 2, "is in use by another process");
    refused("--api-sock", &vm.path("api"), 2, "is the socket of a process that is running");
    refused("--backing", "managed_2mb", 1, "too few huge pages");
    assert_eq!(vm.get("/")["state"], "Running");
}

fn killed() {
    let _pages = huge_pages(&Backing::Managed2mb, BYTES);
    let free = || HugePagePool::read(HugePageSize::Mb2).unwrap().available();
    let before = free();
    let mut vm = start();
    assert_eq!(before - free(), BYTES / HugePageSize::Mb2.bytes());

    kill(Pid::from_raw(vm.pid().try_into().unwrap()), Signal::SIGKILL).unwrap();
    assert_eq!(vm.wait().code(), None);

    wait_until("its huge pages are back", || free() == before);
    assert_eq!(
        vm.files(),
        ["api", "console", "disk", "kernel", "log", "metrics"],
        "nothing but what it was asked for"
    );
    ip(&["link", "show", "dev", TAP]);
    let options = options(&vm.folder);
    vm.start_again(&options);
    vm.wait_for("!");
    assert_eq!(vm.get("/")["state"], "Running");
}
