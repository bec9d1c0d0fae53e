//! SIGINT in the middle: the VM is gone, there is no result, and the exit code says so.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use underlay_tests::{Finished, Need, Suite, underlay_path};

pub(crate) fn add_to(suite: &mut Suite) {
    let needs = [Need::Kvm, Need::Program("env")];
    let mut test = |name: &str, body: fn()| {
        suite.test(format!("interrupted::{name}"), &needs, body);
    };
    test("while_the_guest_runs", || {
        interrupted(&[], &[Signal::SIGINT], 130);
    });
    test("while_memory_is_populated", || {
        interrupted(&["--prefault"], &[Signal::SIGTERM], 143);
    });
    test("twice_at_once_is_one_wish", || {
        interrupted(&[], &[Signal::SIGINT, Signal::SIGINT], 130);
    });
    test("while_touches_go_to_a_pipe", touches);
    test("killed_outright_leaves_nothing", killed);
    test("while_a_pipe_has_no_reader", no_reader);
    test("while_processes_are_started", startup);
    test("ignored_from_the_start_stays_ignored", ignored);
    let programs = ["env", "script", "timeout"].map(Need::Program);
    suite.test(
        "interrupted::the_bar_goes_and_the_terminal_is_as_before",
        &[&[Need::Kvm], &programs[..]].concat(),
        terminal,
    );
}

/// More than anybody waits for.
const LONG: [&str; 7] = ["measure", "--backing", "anonymous", "--mem", "2G", "--samples", "1000"];

/// `underlay`, with signals as `env` is told: what started this test may have had them ignored.
fn underlay(signals: &str) -> Command {
    let mut command = Command::new("env");
    command.arg(signals).arg(underlay_path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

const LISTEN: &str = "--default-signal=INT,TERM";

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

#[track_caller]
fn says_interrupted(child: Child, code: i32) {
    let finished: Finished = child.wait_with_output().unwrap().into();
    assert_eq!(finished.code, Some(code), "{}", finished.stderr);
    assert_eq!(finished.stdout, "", "no half result");
    assert!(finished.stderr.contains("interrupted; there is no result"), "{}", finished.stderr);
}

/// The folder holds the old result, and nothing else.
#[track_caller]
fn is_untouched(directory: &Path) {
    let result = fs::read_to_string(directory.join("result.json")).unwrap();
    assert_eq!(result, "old", "the old result is untouched");
    let files = fs::read_dir(directory).unwrap().count();
    assert_eq!(files, 1, "and nothing stands beside it");
}

/// A long measurement that has begun, and is to replace `result.json`.
fn measuring(directory: &Path, more: &[&str]) -> Child {
    let result = directory.join("result.json");
    fs::write(&result, "old").unwrap();
    let mut command = underlay(LISTEN);
    let mut child = command.args(LONG).args(more).arg("--json").arg(&result).spawn().unwrap();
    wait_until_it_measures(&mut child);
    child
}

fn interrupted(more: &[&str], signals: &[Signal], code: i32) {
    let directory = tempfile::tempdir().unwrap();
    let child = measuring(directory.path(), more);

    for signal in signals {
        send(&child, *signal);
    }

    says_interrupted(child, code);
    is_untouched(directory.path());
}

fn touches() {
    let mut command = underlay(LISTEN);
    let mut child = command
        .args(["measure", "--backing", "anonymous", "--mem", "1M"])
        .args(["--samples", "1000000", "--samples-out", "-"])
        .spawn()
        .unwrap();
    // More than fits in a pipe.
    while kept_bytes(&child) < 1 << 20 {
        still_runs(&mut child);
    }

    send(&child, Signal::SIGINT);

    says_interrupted(child, 130);
}

/// How many bytes the process has in files without a name.
fn kept_bytes(child: &Child) -> u64 {
    let files = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
    // Descriptors come and go meanwhile.
    let files = files.flatten().filter_map(|entry| {
        let name = fs::read_link(entry.path()).ok()?;
        let nameless = name.to_str()?.ends_with("(deleted)");
        let metadata = fs::metadata(entry.path()).ok()?;
        (nameless && metadata.is_file()).then_some(metadata.len())
    });
    files.max().unwrap_or(0)
}

fn killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = measuring(directory.path(), &[]);

    child.kill().unwrap();

    assert_eq!(child.wait().unwrap().code(), None);
    is_untouched(directory.path());
}

fn no_reader() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let mut command = underlay(LISTEN);
    let mut child = command.args(LONG).arg("--json").arg(&fifo).spawn().unwrap();
    wait_until_it_listens(&mut child);

    send(&child, Signal::SIGINT);

    says_interrupted(child, 130);
}

fn startup() {
    let mut command = underlay(LISTEN);
    let mut child = command.args(["startup", "--samples", "1000000"]).spawn().unwrap();
    wait_until_it_listens(&mut child);

    send(&child, Signal::SIGINT);

    says_interrupted(child, 130);
}

fn ignored() {
    let mut command = underlay("--ignore-signal=INT");
    let mut child = command
        .args(["measure", "--backing", "anonymous", "--mem", "64M"])
        .args(["--samples", "1"])
        .spawn()
        .unwrap();
    wait_until_it_measures(&mut child);

    send(&child, Signal::SIGINT);

    let finished: Finished = child.wait_with_output().unwrap().into();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
}

fn terminal() {
    // It sends the signal twice, as `timeout` does: to its child, and to the group that is in.
    let command = format!(
        "timeout --preserve-status -s INT 2 env {LISTEN} '{}' {}",
        underlay_path().display(),
        LONG.join(" ")
    );
    let output =
        Command::new("script").args(["-qec", &command, "/dev/null"]).stdin(Stdio::null()).output().unwrap();

    let finished: Finished = output.into();
    let screen = finished.stdout;
    assert_eq!(finished.code, Some(130), "{screen:?}");
    let bar = screen.rfind("0/1001").unwrap();
    let cleared = screen.rfind("\x1b[2K").unwrap();
    let message = screen.find("underlay: interrupted").unwrap();
    assert!(bar < cleared && cleared < message, "{screen:?}");
    let hidden = screen.rfind("\x1b[?25l");
    let shown = screen.rfind("\x1b[?25h");
    assert!(hidden <= shown, "the cursor is visible: {screen:?}");
}

/// Until the program, and no longer `env`, has its guest's RAM.
fn wait_until_it_measures(child: &mut Child) {
    let status = format!("/proc/{}/statm", child.id());
    // Of its own, not of its file: the program itself is larger than what the guest is waited for to have touched.
    let own_pages = || {
        let statm = fs::read_to_string(&status).unwrap();
        let mut fields = statm.split_whitespace().skip(1).map(|pages| pages.parse::<u64>().unwrap());
        let (resident, of_files) = (fields.next().unwrap(), fields.next().unwrap());
        resident.saturating_sub(of_files)
    };
    while own_pages() < (8 << 20) / 4096 {
        still_runs(child);
    }
}

/// Until the program has a handler for SIGINT.
fn wait_until_it_listens(child: &mut Child) {
    let status = format!("/proc/{}/status", child.id());
    let caught = || {
        let status = fs::read_to_string(&status).unwrap();
        let set = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        u64::from_str_radix(set.unwrap().trim(), 16).unwrap()
    };
    let interrupt = 1 << (Signal::SIGINT as u32 - 1);
    while caught() & interrupt == 0 {
        still_runs(child);
    }
}

/// Lets the child run on; fails if it has ended, for then nothing more is to be waited for.
#[track_caller]
fn still_runs(child: &mut Child) {
    assert_eq!(child.try_wait().unwrap(), None, "it ended too early");
    thread::sleep(Duration::from_millis(5));
}
