//! `underlay run` with guests of a few instructions: what scripts and terminals see of them, and what is refused.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use tempfile::TempDir;
use underlay_tests::{Finished, Need, Suite, tiny_kernel, underlay, underlay_path, write_tiny_kernel};

use super::bad_input::says;

/// mov $0x3f8, %dx; mov $'!', %al; out %al, (%dx); mov $0x501, %dx; mov $42, %al; out %al, (%dx); hlt
const HELLO: &[u8] =
    &[0x66, 0xba, 0xf8, 0x03, 0xb0, b'!', 0xee, 0x66, 0xba, 0x01, 0x05, 0xb0, 42, 0xee, 0xf4];
/// mov $0xfe, %al; out %al, $0x64; hlt
const RESET: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64, 0xf4];
/// Words and double words at the serial port, whose registers are a byte wide. Writes an A and so 0 to the next register, a
/// B and a C in the same way by a string instruction; $0x5a to its last register, reads that with the three before it, and
/// ends with it as its status:
/// mov $0x3f8, %dx; mov $'A', %ax; out %ax, (%dx); mov $data, %esi; mov $2, %ecx; cld; rep outsw; mov $0x3ff, %dx;
/// mov $0x5a, %al; out %al, (%dx); mov $0x3fc, %dx; in (%dx), %eax; shr $24, %eax; mov $0x501, %dx; out %al, (%dx); hlt;
/// data: .word 'B', 'C'
const WIDE: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, 0x66, 0xb8, b'A', 0x00, 0x66, 0xef, 0xbe, 0x2d, 0x00, 0x10, 0x00, 0xb9, 0x02,
    0x00, 0x00, 0x00, 0xfc, 0x66, 0xf3, 0x6f, 0x66, 0xba, 0xff, 0x03, 0xb0, 0x5a, 0xee, 0x66, 0xba, 0xfc,
    0x03, 0xed, 0xc1, 0xe8, 0x18, 0x66, 0xba, 0x01, 0x05, 0xee, 0xf4, b'B', 0x00, b'C', 0x00,
];
/// ud2, with no handler
const FAULT: &[u8] = &[0x0f, 0x0b];
/// jmp .
const SPIN: &[u8] = &[0xeb, 0xfe];
/// Waits for a byte at the serial port, and ends with it as its status:
/// mov $0x3fd, %dx; 1: in (%dx), %al; test $1, %al; je 1b; mov $0x3f8, %dx; in (%dx), %al; mov $0x501, %dx; out %al, (%dx)
const READ: &[u8] = &[
    0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb, 0x66, 0xba, 0xf8, 0x03, 0xec, 0x66, 0xba, 0x01,
    0x05, 0xee, 0xf4,
];

pub(crate) fn add_to(suite: &mut Suite) {
    let kvm = [Need::Kvm];
    suite.test("run::what_a_guest_writes_and_ends_with_is_seen", &kvm, hello);
    suite.test("run::wide_accesses_reach_a_port_for_each_byte", &kvm, wide);
    suite.test("run::a_reset_ends_with_success", &kvm, reset);
    suite.test("run::a_triple_fault_is_told_with_its_instruction", &kvm, fault);
    suite.test("run::what_is_typed_reaches_the_guest", &kvm, typed);
    suite.test("run::a_guest_that_reads_a_file_gets_its_bytes", &kvm, typed_from_a_file);
    suite.test("run::a_silent_guest_is_found", &kvm, silent);
    suite.test("run::output_that_nobody_reads_does_not_stop_the_guest", &kvm, unread);
    suite.test("run::a_masked_feature_is_gone_or_told", &kvm, masked);
    suite.test("run::many_vcpus_wait_and_end", &kvm, many_vcpus);
    let script = [Need::Kvm, Need::Program("script"), Need::Program("stty"), Need::Program("env")];
    for end in ["exit", "fault", "INT", "TERM", "HUP", "QUIT", "ABRT", "SEGV"] {
        suite.test(format!("run::terminal::is_put_back_after_{end}"), &script, move || terminal(end));
    }
    suite.test("run::terminal::an_escape_ends_the_guest", &script, escape);
    for (name, args, words) in WRONG {
        suite.test(format!("run::refuses::{name}"), &kvm, move || refused(args, words));
    }
    suite.test("run::refuses::files_that_are_no_kernel", &kvm, bad_kernels);
    suite.test("run::refuses::initrds", &kvm, bad_initrds);
}

/// A folder with a guest of `code` in it.
fn kernel(code: &[u8]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kernel");
    write_tiny_kernel(&path, code);
    (directory, path)
}

/// Runs a guest of `code`, with `more` arguments.
fn run(code: &[u8], more: &[&str]) -> Finished {
    let (_directory, path) = kernel(code);
    underlay(&[&["run", "--kernel", path.to_str().unwrap()], more].concat())
}

fn command(path: &Path) -> Command {
    let mut command = Command::new(underlay_path());
    command.args(["run", "--mem", "16M", "--kernel"]).arg(path);
    command
}

fn hello() {
    for backing in ["anonymous", "shmem"] {
        let finished = run(HELLO, &["--backing", backing]);

        assert_eq!((finished.code, finished.stdout.as_str()), (Some(42), "!"), "{}", finished.stderr);
        assert_eq!(finished.stderr, "");
    }
}

fn wide() {
    let finished = run(WIDE, &[]);

    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0x5a), "ABC"), "{}", finished.stderr);
}

fn reset() {
    let finished = run(RESET, &[]);

    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
}

fn fault() {
    let finished = run(FAULT, &[]);

    says(
        &finished,
        1,
        &["vCPU 0 stopped: triple fault", "rip 0x0000000000100000", "bytes 0f 0b: ud2", "--cmdline"],
    );
}

fn typed() {
    let (_directory, path) = kernel(READ);
    let mut child = command(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();

    child.stdin.take().unwrap().write_all(b"A").unwrap();

    assert_eq!(child.wait().unwrap().code(), Some(i32::from(b'A')));
}

fn typed_from_a_file() {
    let (directory, path) = kernel(READ);
    let input = directory.path().join("input");
    // More than the port has room for.
    fs::write(&input, [b'B'; 1000]).unwrap();

    let status = command(&path).stdin(File::open(&input).unwrap()).status().unwrap();

    assert_eq!(status.code(), Some(i32::from(b'B')));
}

/// Runs a guest that never ends until `script`, which has its process in $!, is through; what was written to stderr.
fn with_shell(path: &Path, options: &str, script: &str) -> Finished {
    let line = format!("\"$0\" run --mem 16M --kernel \"$1\" {options} & {script}");
    let shell = Command::new("sh").args(["-c", &line]).arg(underlay_path()).arg(path).output();
    shell.unwrap().into()
}

fn silent() {
    let (directory, path) = kernel(SPIN);
    let log = directory.path().join("log");
    let options = format!("--watchdog 0.2 --vcpus 2 2>{}", log.display());
    let wait =
        format!("until grep -q 'vCPU 1' {}; do sleep 0.1; done; kill -TERM $!; wait $!", log.display());

    let finished = with_shell(&path, &options, &wait);

    let told = fs::read_to_string(&log).unwrap();
    // A shell has what it runs in the background ignore SIGINT.
    assert_eq!(finished.code, Some(143), "{told}");
    for words in [
        "the guest has written nothing for 0.2 s",
        "vCPU 0: rip 0x0000000000100000",
        "vCPU 1: waits to be started by another",
        "interrupted; the guest was stopped where it was",
    ] {
        assert!(told.contains(words), "no {words:?} in: {told}");
    }
}

fn unread() {
    let (_directory, path) = kernel(HELLO);
    let mut child = command(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());

    assert_eq!(child.wait().unwrap().code(), Some(42));
}

fn masked() {
    let finished = run(HELLO, &["--mask-cpu", "smap,popcnt"]);

    assert_eq!(finished.code, Some(42), "{}", finished.stderr);
    let told = finished.stderr.contains("whatever they are to see; add clearcpuid=");
    assert!(told || finished.stderr.is_empty(), "{}", finished.stderr);
}

fn many_vcpus() {
    let finished = run(HELLO, &["--vcpus", "16"]);

    assert_eq!((finished.code, finished.stdout.as_str()), (Some(42), "!"), "{}", finished.stderr);
}

/// Runs `body`, a shell script in which UNDERLAY is the program and $1 the guest at `path`, on a terminal of its own, into
/// which `typed` is typed; what the terminal shows.
fn on_a_terminal(path: &Path, body: &str, typed: &[u8]) -> String {
    let script = path.with_file_name("script.sh");
    let body = body.replace("UNDERLAY", underlay_path().to_str().unwrap());
    fs::write(&script, format!("set -- {}\n{body}", path.display())).unwrap();
    let line = format!("sh {}", script.display());
    let mut child = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(typed).unwrap();
    let output = child.wait_with_output().unwrap();
    // At the end of its input `script` would hang up.
    drop(stdin);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until the terminal is the guest's.
const UNTIL_RAW: &str = "until stty -a <&3 | grep -q -- -icanon; do sleep 0.05; done";

fn terminal(end: &str) {
    let (_directory, path) = kernel(match end {
        "exit" => HELLO,
        "fault" => FAULT,
        _ => SPIN,
    });
    let kill = match end {
        "exit" | "fault" => String::new(),
        signal => format!("{UNTIL_RAW}; kill -{signal} $p"),
    };
    // A shell has what it runs in the background ignore some.
    let body = format!(
        "exec 3<&0; before=$(stty -g <&3)\n\
         env --default-signal=INT,QUIT UNDERLAY run --mem 16M --kernel $1 <&3 & p=$!\n\
         {kill}\n\
         wait $p\n\
         test \"$before\" = \"$(stty -g <&3)\" && echo as it was || echo changed\n"
    );

    let shown = on_a_terminal(&path, &body, b"");

    assert!(shown.contains("as it was"), "{shown}");
}

fn escape() {
    let (_directory, path) = kernel(SPIN);
    let body = "UNDERLAY run --mem 16M --kernel $1; echo code $?; stty -a | grep -q -- -icanon && echo raw\n";

    let shown = on_a_terminal(&path, body, b"ab\x01x");

    assert!(shown.contains("code 0"), "{shown}");
    assert!(!shown.contains("raw"), "{shown}");
}

/// What is wrong by itself: the arguments after a kernel that would run, and what the message must say.
const WRONG: [(&str, &[&str], &[&str]); 9] = [
    ("ram_too_small", &["--mem", "1M"], &["too few to boot anything", "--mem"]),
    ("ram_of_half_a_page", &["--mem", "4097"], &["4097"]),
    ("no_vcpus", &["--vcpus", "0"], &["must be at least 1"]),
    ("more_vcpus_than_a_guest_can_have", &["--vcpus", "255"], &["use at most 254"]),
    ("more_vcpus_than_kvm_has", &["--vcpus", "100000"], &["100000 vCPUs", "use at most"]),
    ("a_cpu_feature_that_is_none", &["--mask-cpu", "smop"], &["no CPU feature is called `smop`"]),
    ("a_watchdog_without_patience", &["--watchdog", "0"], &["more than 0 seconds"]),
    ("a_command_line_in_another_alphabet", &["--cmdline", "naïve"], &["printable ASCII"]),
    ("no_entry_for_pvh", &["--protocol", "pvh"], &["no entry for PVH", "--protocol"]),
];

#[track_caller]
fn refused(args: &[&str], words: &[&str]) {
    says(&run(HELLO, args), 2, words);
}

fn bad_kernels() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let whole = tiny_kernel(HELLO, 4096);
    fs::write(path("empty"), "").unwrap();
    fs::write(path("script"), "#!/bin/sh\n").unwrap();
    fs::write(path("noise"), [7; 10000]).unwrap();
    fs::write(path("cut"), &whole[..whole.len() - 1]).unwrap();
    fs::write(path("header"), &whole[..70]).unwrap();
    fs::write(path("large"), tiny_kernel(HELLO, 1 << 30)).unwrap();
    mkfifo(Path::new(&path("fifo")), Mode::S_IRWXU).unwrap();
    let refused = |name: &str, words: &[&str]| {
        says(&underlay(&["run", "--mem", "16M", "--kernel", &path(name)]), 2, words);
    };

    refused("missing", &["missing", "No such file"]);
    refused("", &["not a regular file"]);
    refused("fifo", &["fifo", "not a regular file"]);
    refused("empty", &["empty", "give an x86_64 kernel"]);
    refused("script", &["it is a script"]);
    refused("noise", &["it is not a kernel"]);
    refused("cut", &["truncated", "copy or build it again"]);
    refused("header", &["truncated"]);
    refused("large", &["needs RAM up to", "--mem"]);
}

fn bad_initrds() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("empty"), "").unwrap();
    File::create(path("large")).unwrap().set_len(256 << 20).unwrap();
    let refused = |name: &str, words: &[&str]| says(&run(HELLO, &["--initrd", &path(name)]), 2, words);

    refused("missing", &["initrd", "missing", "No such file"]);
    refused("", &["initrd", "not a regular file"]);
    refused("empty", &["initrd", "is empty"]);
    refused("large", &["has 268435456 bytes", "left above the kernel", "--mem"]);
    let long = "a".repeat(3000);
    says(&run(HELLO, &["--cmdline", &long]), 2, &["3000 bytes", "at most 2047", "--cmdline"]);
}
