//! The `underlay` program, run as a user would.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

/// What a run of a program left behind.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// All it wrote to stdout.
    pub stdout: String,
    /// All it wrote to stderr.
    pub stderr: String,
}

/// Runs `underlay` with `args` and waits for its end.
///
/// # Panics
/// If it cannot be started.
#[must_use]
#[track_caller]
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
pub fn underlay(args: &[&str]) -> Finished {
    let output = Command::new(underlay_path()).args(args).stdin(Stdio::null()).output();
    output.expect("underlay can be started").into()
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

/// Where the program is: built by the same profile as this test, now if need be.
///
/// # Panics
/// If it cannot be built.
#[must_use]
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
pub fn underlay_path() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // target/TARGET/PROFILE/deps/this-test
        let test = std::env::current_exe().expect("this test has a path");
        let mut above = test.ancestors().skip(2);
        let mut next = || above.next().expect("this test lies in its target's and its profile's folder");
        let (profile, target, all) = (next(), next(), next());
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "vmm", "--bin", "underlay", "--target-dir"]).arg(all);
        cargo.arg("--target").arg(target.file_name().expect("a target has a name"));
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(built.expect("cargo can be started").success(), "underlay can be built");
        profile.join("underlay")
    })
}
