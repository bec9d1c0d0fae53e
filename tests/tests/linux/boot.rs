//! Linux boots to its init on every backing, and scripts see its status.

use std::{
    fs::{self, File},
    path::Path,
};

use guest_mem::{Backing, ByteSize, HugePageSize};
use underlay_tests::{Finished, Linux, Need, Suite, Turn, bzimage, debian_kernel, huge_pages, underlay};
use vmm::{boot::BootSource, memory::MemoryConfig, microvm::Ending};

use super::support::{Guest, M};

/// Guest RAM: the kernel, its tables, and room for what the init fills. Of pages of 1 GiB there is one.
const BYTES: u64 = 64 * M;

pub(crate) fn add_to(suite: &mut Suite) {
    let pages_of_2m = Need::HugePages(HugePageSize::Mb2, BYTES / (2 * M));
    let page_of_1g = Need::HugePages(HugePageSize::Gb1, 1);
    for (backing, need) in [
        (Backing::Anonymous, None),
        (Backing::AnonymousThp, Some(Need::Thp)),
        (Backing::AnonymousHugetlb2mb, Some(pages_of_2m)),
        (Backing::AnonymousHugetlb1gb, Some(page_of_1g)),
        (Backing::Shmem, None),
        (Backing::ShmemThp, Some(Need::ShmemThp)),
        (Backing::SharedHugetlb2mb, Some(pages_of_2m)),
        (Backing::SharedHugetlb1gb, Some(page_of_1g)),
        (Backing::GuestMemfd, Some(Need::GuestMemfd)),
        (Backing::Managed4kb, None),
        (Backing::Managed2mb, Some(pages_of_2m)),
        (Backing::ManagedThp, Some(Need::ShmemThp)),
    ] {
        let faults = backing.is_managed().then_some(Need::ManagedFaults);
        let needs: Vec<_> = [Need::Kvm, Need::Linux].into_iter().chain(need).chain(faults).collect();
        if matches!(backing, Backing::Anonymous | Backing::Shmem | Backing::Managed4kb) {
            let backing = backing.clone();
            let name = format!("boot::{backing}::two_vcpus");
            suite.test(name, &needs, move || boots(&backing, 2));
        }
        suite.test(format!("boot::{backing}::one_vcpu"), &needs, move || boots(&backing, 1));
    }
    let needs = [Need::Kvm, Need::Linux];
    suite.test("boot::file::one_vcpu", &needs, on_a_file);
    suite.test("boot::by_pvh", &needs, by_pvh);
    suite.test("boot::packed_in_a_bzimage", &needs, packed);
    suite.test("boot::debians_kernel_speaks", &[Need::Kvm, Need::DebianKernel], debian);
    suite.test("boot::a_panic_of_the_guest_resets_it", &needs, panics);
    suite.test("boot::ram_above_the_hole_is_the_guests", &[Need::Kvm, Need::Linux, Need::Overcommit], above);
}

/// Runs `underlay run` with a Linux guest whose init runs `tests`.
fn run(tests: &str, vcpus: usize, more: &[&str]) -> Finished {
    run_kernel(&Linux::built().unwrap().kernel, tests, vcpus, more)
}

/// The same with another kernel.
fn run_kernel(kernel: &Path, tests: &str, vcpus: usize, more: &[&str]) -> Finished {
    let _turn = Turn::wait(vcpus);
    let linux = Linux::built().unwrap();
    let (kernel, initrd) = (kernel.to_str().unwrap(), linux.initrd.to_str().unwrap());
    let line = linux.line_for(tests);
    let args = ["run", "--kernel", kernel, "--initrd", initrd, "--cmdline", &line];
    underlay(&[&args[..], more].concat())
}

/// The guest passed `test`, and ended with `code`.
#[track_caller]
fn passed(finished: &Finished, test: &str, code: i32) {
    let Finished { stdout, stderr, .. } = finished;
    assert_eq!(finished.code, Some(code), "{stdout}{stderr}");
    assert!(stdout.contains(&format!("init: passed {test} ")), "{stdout}{stderr}");
}

fn boots(backing: &Backing, vcpus: usize) {
    let bytes = backing.hugetlb().map_or(BYTES, |page| page.bytes().max(BYTES));
    let _settings = huge_pages(backing, bytes);
    let (name, count, size) = (backing.to_string(), vcpus.to_string(), bytes.to_string());

    let finished = run("fill:8:1,exit:7", vcpus, &["--mem", &size, "--backing", &name, "--vcpus", &count]);

    passed(&finished, "fill:8:1", 7);
    assert!(finished.stdout.contains(&format!("init: up cpus={vcpus} ")), "{}", finished.stdout);
}

fn on_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ram");
    File::create(&path).unwrap().set_len(BYTES).unwrap();
    let backing = format!("file:{}", path.display());

    let finished = run("fill:8:1,exit:7", 1, &["--mem", "64M", "--backing", &backing]);

    passed(&finished, "fill:8:1", 7);
    let unwritten = fs::read(&path).unwrap().iter().all(|byte| *byte == 0);
    assert!(unwritten, "a private mapping leaves the file alone");
}

fn by_pvh() {
    let finished = run("exit:9", 1, &["--mem", "64M", "--protocol", "pvh"]);

    assert_eq!(finished.code, Some(9), "{}{}", finished.stdout, finished.stderr);
}

fn packed() {
    let vmlinux = fs::read(Linux::built().unwrap().kernel).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bzImage");
    fs::write(&path, bzimage(&vmlinux, 48 << 20)).unwrap();

    for protocol in ["auto", "pvh"] {
        let finished = run_kernel(&path, "exit:9", 1, &["--mem", "64M", "--protocol", protocol]);

        assert_eq!(finished.code, Some(9), "{}{}", finished.stdout, finished.stderr);
    }
}

/// A kernel as people have it, compressed as its distribution likes. Where KVM emulates its code it cannot come far.
fn debian() {
    let source = BootSource {
        command_line: "earlyprintk=serial,ttyS0,115200 console=ttyS0 underlay.word=4711".to_owned(),
        ..BootSource::new(debian_kernel().unwrap())
    };
    let memory = MemoryConfig::new(ByteSize::new(128 * M).unwrap(), Backing::Anonymous);

    let guest = Guest::boot_from(&source, memory, 1, |_| ());
    guest.wait_for("Linux version 6.", 1);
    guest.wait_for(&format!("Command line: {}", source.command_line), 1);
    guest.handle.stop();

    assert!(matches!(guest.finish().0, Ending::Stopped));
}

fn panics() {
    let finished = run("panic", 1, &["--mem", "64M"]);

    assert_eq!(finished.code, Some(0), "{}{}", finished.stdout, finished.stderr);
    assert!(finished.stdout.contains("Kernel panic"), "{}", finished.stdout);
}

fn above() {
    // Without most of what is below the hole, and without a copy of 64 MiB for devices that reach no higher: setting them up
    // takes two minutes where KVM emulates that.
    let finished = run("boot memmap=2976M$96M swiotlb=noforce", 1, &["--mem", "3328M"]);

    passed(&finished, "boot", 0);
    let kib = finished.stdout.split("mem_kib=").nth(1).and_then(|text| text.split(' ').next());
    let kib: u64 = kib.unwrap().parse().unwrap();
    assert!(kib > 256 << 10, "{kib} KiB are no more than what lies below the hole");
}
