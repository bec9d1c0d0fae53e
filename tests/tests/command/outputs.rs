//! Where results go: into files whole or not at all, into pipes and devices at the end, never over each other.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use underlay_tests::{Finished, Need, Suite, underlay, underlay_path};

use super::bad_input::{refused, says};

pub(crate) fn add_to(suite: &mut Suite) {
    let mut test = |name: &str, body: fn()| {
        suite.test(format!("outputs::{name}"), &[Need::Kvm], body);
    };
    test("two_into_one_file_are_refused", clashes);
    test("the_backing_file_is_not_replaced", over_the_backing);
    test("a_file_keeps_its_mode_and_a_link_its_target", mode_and_link);
    test("dev_stdout_is_stdout", dev_stdout);
    test("another_descriptor_is_written_in_place", descriptor);
    test("a_pipe_gets_every_touch", pipe);
    test("a_full_disk_is_told", full);
    test("touches_into_a_closed_stdout", closed_early);
    test("stdout_closed_from_the_start", closed_from_the_start);
    test("a_full_stderr_changes_no_exit_code", full_stderr);
}

const SHORT: [&str; 7] = ["measure", "--backing", "anonymous", "--mem", "1M", "--samples", "1"];
/// The header, and two passes over 256 pages.
const TOUCH_LINES: usize = 1 + 2 * 256;

fn short() -> Command {
    let mut command = Command::new(underlay_path());
    command.args(SHORT).stdin(Stdio::null());
    command
}

#[track_caller]
fn finished(command: &mut Command) -> Finished {
    command.output().unwrap().into()
}

fn clashes() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let both = |a: &str, b: &str| {
        refused(
            &[&SHORT[..], &["--json", a, "--samples-out", b]].concat(),
            2,
            &["--json", "--samples-out", "only one of them"],
        );
    };

    both(&path("a"), &path("a"));
    both(&path("a"), &path("./a"));
    both("-", "/dev/stdout");
    fs::write(path("old"), "").unwrap();
    fs::hard_link(path("old"), path("hard")).unwrap();
    both(&path("old"), &path("hard"));

    let devices = underlay(&[&SHORT[..], &["--json", "/dev/null", "--csv", "/dev/null"]].concat());
    assert_eq!(devices.code, Some(0), "{}", devices.stderr);
}

fn over_the_backing() {
    let directory = tempfile::tempdir().unwrap();
    let ram = directory.path().join("ram");
    let link = directory.path().join("link");
    File::create(&ram).unwrap().set_len(1 << 20).unwrap();
    symlink("ram", &link).unwrap();
    let backing = format!("file:{}", ram.display());

    refused(
        &["measure", "--mem", "1M", "--backing", &backing, "--csv", link.to_str().unwrap()],
        2,
        &["--csv would replace", "ram"],
    );
    assert_eq!(fs::metadata(&ram).unwrap().len(), 1 << 20);
}

fn mode_and_link() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("private"), "old").unwrap();
    fs::set_permissions(path("private"), Permissions::from_mode(0o600)).unwrap();
    symlink("target", path("dangling")).unwrap();

    let result = finished(short().arg("--json").arg(path("private")).arg("--csv").arg(path("dangling")));

    assert_eq!(result.code, Some(0), "{}", result.stderr);
    let mode = fs::metadata(path("private")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert!(fs::read_to_string(path("private")).unwrap().starts_with('{'));
    assert!(fs::symlink_metadata(path("dangling")).unwrap().is_symlink());
    let csv = fs::read_to_string(path("target")).unwrap();
    assert_eq!(csv.lines().count(), 2);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
}

fn dev_stdout() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let args = ["--json", "/dev/stdout"];

    let piped = finished(short().args(args));
    let file = File::create(&path).unwrap();
    let status = short().args(args).stdout(file).status().unwrap();

    assert!(piped.stdout.starts_with('{'), "{}", piped.stdout);
    assert!(status.success());
    assert!(fs::read_to_string(&path).unwrap().starts_with('{'));
}

fn descriptor() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let script =
        format!("exec 3>'{}' && echo before >&3 && exec \"$0\" \"$@\" --csv /dev/fd/3", path.display());

    let result = finished(Command::new("sh").args(["-c", &script]).arg(underlay_path()).args(SHORT));

    assert_eq!(result.code, Some(0), "{}", result.stderr);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("before\nbacking,"), "{text}");
}

fn pipe() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let reader = thread::spawn({
        let fifo = fifo.clone();
        move || fs::read_to_string(fifo).unwrap()
    });

    let result = finished(short().arg("--samples-out").arg(&fifo));

    assert_eq!(result.code, Some(0), "{}", result.stderr);
    assert_eq!(reader.join().unwrap().lines().count(), TOUCH_LINES);
    let stdout = finished(short().args(["--samples-out", "-"])).stdout;
    assert_eq!(stdout.lines().count(), TOUCH_LINES, "and no tables");
}

fn full() {
    for option in ["--json", "--csv", "--samples-out"] {
        let result = finished(short().args([option, "/dev/full"]));

        says(&result, 1, &["cannot write /dev/full", "No space left"]);
    }
}

fn closed_early() {
    let mut child =
        short().args(["--samples-out", "-"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());

    let result = child.wait_with_output().unwrap();

    says(&result.into(), 1, &["stdout was closed"]);
}

fn closed_from_the_start() {
    let run = |redirect: &str| -> Finished {
        finished(
            Command::new("sh")
                .args(["-c", &format!("exec \"$0\" \"$@\" {redirect}")])
                .arg(underlay_path())
                .args(SHORT),
        )
    };

    says(&run(">&-"), 1, &["stdout was closed before underlay started"]);
    says(&run("1<>/dev/null"), 0, &[]);
}

fn full_stderr() {
    let full = || File::options().write(true).open(Path::new("/dev/full"));

    let mut command = Command::new(underlay_path());
    let status = command.args(["measure", "--mem", "6000"]).stderr(full().unwrap()).status().unwrap();

    assert_eq!(status.code(), Some(2));
}
