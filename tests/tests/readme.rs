//! The commands that the README promises, run as they are written there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use underlay_tests::{Need, Suite};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.test("readme::every_underlay_command_works", &[Need::Kvm], every_command);
    let needs = [Need::Kvm, Need::ManagedFaults, Need::Linux, Need::Program("busybox")];
    suite.test("readme::its_lines_lead_to_a_shell", &needs, shell);
    suite.test("readme::its_test_command_is_what_ci_runs", &[], test_command);
    suite.test("readme::has_no_placeholder", &[], no_placeholder);
    suite.run()
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The README's shell blocks.
fn blocks() -> Vec<String> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = readme.split("```").skip(1).step_by(2);
    blocks.filter_map(|block| block.strip_prefix("sh\n")).map(str::to_owned).collect()
}

/// Their lines, but for those that only mean something together.
fn commands() -> Vec<String> {
    let blocks = blocks();
    let alone = blocks.iter().filter(|block| !is_boot(block));
    alone.flat_map(|block| block.lines()).filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
}

/// Whether these are the lines that boot Linux.
fn is_boot(block: &str) -> bool {
    block.contains("-- run ")
}

/// Until the prompt has been seen, what is typed may be thrown away.
fn shell() {
    let block = blocks().into_iter().find(|block| is_boot(block)).unwrap();
    let mut child = Command::new("sh")
        .args(["-c", &block])
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut console = child.stdout.take().unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let (mut seen, mut byte) = (Vec::new(), [0]);

    while !seen.ends_with(b"underlay# ") && console.read(&mut byte).unwrap() == 1 {
        seen.push(byte[0]);
    }
    keyboard.write_all(b"exit 7\n").unwrap();
    console.read_to_end(&mut seen).unwrap();

    let text = String::from_utf8_lossy(&seen);
    assert_eq!(child.wait().unwrap().code(), Some(7), "{text}");
    assert!(text.contains("init: test shell"), "{text}");
}

fn every_command() {
    let underlay: Vec<_> = commands().into_iter().filter(|line| line.starts_with("cargo run")).collect();
    assert!(underlay.contains(&"cargo run --release -- measure".to_owned()), "{underlay:?}");
    for command in underlay {
        let output = Command::new("sh")
            .args(["-c", &command])
            .current_dir(root())
            .stdin(Stdio::null())
            .output()
            .unwrap();

        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stdout.is_empty(), "{command} prints something");
    }
}

fn test_command() {
    let tests: Vec<_> = commands().into_iter().filter(|line| line.starts_with("cargo test")).collect();
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();

    assert_eq!(tests.len(), 1, "{tests:?}");
    assert!(ci.lines().any(|line| line.trim().ends_with(&tests[0])), ".ci/run has no line {:?}", tests[0]);
}

fn no_placeholder() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();

    let left: Vec<_> = readme
        .lines()
        .filter(|line| !line.is_empty() && line.chars().all(|c| c.is_ascii_uppercase()))
        .collect();

    assert!(left.is_empty(), "{left:?}");
}
