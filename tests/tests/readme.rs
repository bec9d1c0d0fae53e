//! The commands that the README promises, run as they are written there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use underlay_tests::{Need, Suite};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.test("readme::every_underlay_command_works", &[Need::Kvm], every_command);
    suite.test("readme::its_test_command_is_what_ci_runs", &[], test_command);
    suite.test("readme::has_no_placeholder", &[], no_placeholder);
    suite.run()
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The lines of the README's shell blocks.
fn commands() -> Vec<String> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = readme.split("```").skip(1).step_by(2);
    let shell = blocks.filter_map(|block| block.strip_prefix("sh\n"));
    shell.flat_map(str::lines).filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
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
