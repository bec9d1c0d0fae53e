//! Network interfaces that are a test's own.

use std::{panic, process::Command, thread};

use nix::sched::{CloneFlags, unshare};

/// The tap device of a test with a [network of its own](in_own_network).
pub const TAP: &str = "tap-underlay";

/// Runs `test` on a thread that has a network namespace of its own, with the tap device [`TAP`] in it; what it returns.
/// Programs that it starts are in it too. The namespace ends with the last of them: no interface is left behind, whatever
/// happens.
///
/// # Panics
/// If `test` does, or if there is no such namespace or device to be had.
#[track_caller]
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
pub fn in_own_network<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        ip(&["tuntap", "add", "dev", TAP, "mode", "tap"]);
        test()
    });
    thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
}

/// Runs `ip` in the network of this thread.
///
/// # Panics
/// If it fails.
#[track_caller]
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
pub fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("the program `ip`");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
