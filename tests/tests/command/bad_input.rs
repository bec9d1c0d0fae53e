//! Bad input and broken hosts: one clear message, the right exit code, nothing left behind.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use underlay_tests::{Finished, Need, Suite, underlay, underlay_path};

pub(crate) fn add_to(suite: &mut Suite) {
    for (name, args, words) in WRONG {
        let name = format!("bad_input::{name}");
        suite.test(name, &[Need::Kvm], move || refused(args, 2, words));
    }
    suite.test("bad_input::files_that_cannot_back_ram", &[Need::Kvm], bad_files);
    suite.test("bad_input::more_vcpus_than_kvm_allows", &[Need::Kvm], too_many_vcpus);
    suite.test("bad_input::unwritable_results_are_found_before_the_run", &[Need::Kvm], unwritable);
    suite.test("bad_input::results_that_cannot_be_compared", &[], bad_results);
    suite.test("bad_host::too_few_huge_pages", &[Need::Kvm], too_few_huge_pages);
    suite.test("bad_host::no_permission_for_kvm", &[Need::Kvm, Need::Root], no_permission);
    suite.test("bad_host::no_kvm", &[Need::Root, Need::Program("unshare")], no_kvm);
    suite.test("bad_host::stdout_closed_early", &[Need::Kvm], stdout_closed);
}

/// What is wrong by itself: the arguments, and what the message must say.
const WRONG: [(&str, &[&str], &[&str]); 21] = [
    ("size_zero", &["measure", "--mem", "0"], &["--mem", "zero"]),
    ("size_of_nothing", &["measure", "--mem", ""], &["--mem"]),
    ("size_with_a_wrong_suffix", &["measure", "--mem", "64Q"], &["64Q", "K, M, G"]),
    ("size_that_is_no_number", &["measure", "--mem", "lots"], &["lots"]),
    ("size_that_overflows", &["measure", "--mem", "99999999999G"], &["99999999999G"]),
    (
        "size_that_is_odd",
        &["measure", "--backing", "anonymous", "--mem", "4097"],
        &["4097", "multiple", "4096"],
    ),
    (
        "size_that_is_no_multiple_of_2m",
        &["measure", "--backing", "anonymous_hugetlb_2mb", "--mem", "3M"],
        &["multiple of the page size", "use 2M or 4M"],
    ),
    (
        "size_beyond_the_address_space",
        &["measure", "--backing", "anonymous", "--mem", "1000000G"],
        &["ask for less"],
    ),
    (
        "huge_pages_larger_than_ram",
        &["measure", "--backing", "anonymous_hugetlb_2mb", "--mem", "7T"],
        &["more than the", "bytes of memory this machine has"],
    ),
    ("unknown_backing", &["measure", "--backing", "anonymus_thp"], &["anonymus_thp", "anonymous_thp"]),
    ("no_vcpus", &["measure", "--vcpus", "0"], &["--vcpus", "must be at least 1"]),
    ("no_samples", &["measure", "--samples", "0"], &["--samples", "must be at least 1"]),
    ("stride_of_zero", &["measure", "--pattern", "stride:0"], &["`0` is no stride", "zero"]),
    ("stride_of_no_word", &["measure", "--pattern", "stride:12"], &["multiple of 8"]),
    (
        "more_vcpus_than_pages",
        &["measure", "--backing", "anonymous", "--mem", "4K", "--vcpus", "2"],
        &["2 vCPUs cannot share 1 touches"],
    ),
    (
        "a_cpu_that_is_not_there",
        &["measure", "--backing", "anonymous", "--mem", "1M", "--pin", "999"],
        &["CPU 999"],
    ),
    (
        "a_handler_on_a_cpu_that_is_not_there",
        &["measure", "--mem", "1M", "--handler-cpu", "999"],
        &["fault handlers", "CPU 999"],
    ),
    ("no_handlers", &["measure", "--handlers", "0"], &["--handlers", "must be at least 1"]),
    (
        "a_window_that_is_no_power_of_two",
        &["measure", "--fault-around", "12K"],
        &["power of two from 4K to 2M"],
    ),
    ("a_window_that_shrinks", &["measure", "--fault-around-huge", "8..4"], &["8 is more than 4"]),
    ("a_stock_that_is_no_number", &["measure", "--stock", "some"], &["all, none or a number of blocks"]),
];

/// Exits with `code`, prints nothing on stdout, and says each of `words` on stderr, without a trace of a panic.
#[track_caller]
pub(super) fn refused(args: &[&str], code: i32, words: &[&str]) {
    says(&underlay(args), code, words);
}

#[track_caller]
pub(super) fn says(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code, Some(code), "{}", finished.stderr);
    assert_eq!(finished.stdout, "");
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    for word in words {
        assert!(finished.stderr.contains(word), "no {word:?} in: {}", finished.stderr);
    }
}

fn bad_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("short"), [0; 4096]).unwrap();
    mkfifo(Path::new(&path("fifo")), Mode::S_IRWXU).unwrap();
    let backing = |name: &str| format!("file:{}", path(name));

    refused(&["measure", "--backing", &backing("short"), "--mem", "1M"], 2, &["short", "4096", "1M"]);
    refused(&["measure", "--backing", &backing("missing"), "--mem", "1M"], 2, &["missing"]);
    refused(&["measure", "--backing", &backing(""), "--mem", "1M"], 2, &["directory"]);
    refused(&["measure", "--backing", &backing("fifo"), "--mem", "1M"], 2, &["fifo", "regular"]);
    refused(&["measure", "--backing", "file:", "--mem", "1M"], 2, &["path"]);
}

fn too_many_vcpus() {
    let args = ["measure", "--backing", "anonymous", "--mem", "1G", "--vcpus", "100000"];
    refused(&args, 2, &["100000 vCPUs are more than this KVM gives one VM"]);
}

fn unwritable() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("no/such/folder/a.json");
    for option in ["--json", "--csv", "--samples-out"] {
        // A measurement of this much would take hours: it is refused before.
        let args = ["measure", "--backing", "anonymous", "--mem", "8G", "--samples", "1000", option];
        refused(
            &[&args[..], &[nowhere.to_str().unwrap()]].concat(),
            2,
            &["cannot write", "there is no folder", "no/such/folder;"],
        );
        refused(
            &[&args[..], &[directory.path().to_str().unwrap()]].concat(),
            2,
            &["cannot write", "directory"],
        );
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
}

fn bad_results() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("text"), "not JSON").unwrap();
    fs::write(path("other"), "{\"name\": 1}").unwrap();
    fs::write(path("newer"), "{\"schema\": 99, \"host\": {}, \"runs\": [], \"skipped\": []}").unwrap();

    refused(&["compare", &path("missing"), &path("text")], 2, &["missing"]);
    refused(&["compare", &path("text"), &path("text")], 2, &["text", "JSON"]);
    refused(&["compare", &path("other"), &path("other")], 2, &["other"]);
    refused(&["compare", &path("newer"), &path("newer")], 2, &["newer", "99"]);
}

fn too_few_huge_pages() {
    // Nobody reserves pages for other tests meanwhile.
    let _settings = guest_mem::HostSettings::lock().unwrap();
    let free = || fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages").ok();
    let before = free();
    let args = ["measure", "--backing", "anonymous_hugetlb_2mb", "--mem", "1G"];

    refused(&args, 1, &["too few huge pages", "512", "nr_hugepages"]);
    assert_eq!(free(), before, "no page stays reserved");
}

fn no_permission() {
    // Somewhere that everybody may read, whatever the folder of the build allows.
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = directory.path().join("underlay");
    fs::copy(underlay_path(), &program).unwrap();

    let measure = Command::new(&program).arg("measure").uid(65534).gid(65534).output().unwrap();
    let host = Command::new(&program).arg("host").uid(65534).gid(65534).output().unwrap();

    says(&measure.into(), 1, &["no permission to open /dev/kvm", "usermod -aG kvm"]);
    assert!(host.status.success(), "a user on a broken host sees what to do");
    let text = String::from_utf8_lossy(&host.stdout).into_owned();
    assert!(text.contains("no permission to open /dev/kvm"), "{text}");
}

fn no_kvm() {
    let script = format!("mount -t tmpfs none /dev && exec {} \"$@\"", underlay_path().display());
    let without_dev = |command: &str| {
        Command::new("unshare").args(["--mount", "sh", "-c", &script, "sh", command]).output().unwrap()
    };

    says(&without_dev("measure").into(), 1, &["there is no /dev/kvm", "modprobe"]);
    let host: Finished = without_dev("host").into();
    assert_eq!(host.code, Some(0), "{}", host.stderr);
    assert!(host.stdout.contains("there is no /dev/kvm"), "{}", host.stdout);
}

fn stdout_closed() {
    let mut child = Command::new(underlay_path())
        .args(["measure", "--backing", "anonymous", "--mem", "1M", "--samples", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());

    let finished = child.wait_with_output().unwrap();
    says(&finished.into(), 1, &["stdout was closed"]);
}
