//! `--config-file`, and the options that go with it.

use std::{fs, os::unix::fs::symlink, process::Command};

use serde_json::json;
use underlay_tests::{Linux, Need, Suite, Turn, underlay, underlay_path};

pub(crate) fn add_to(suite: &mut Suite) {
    suite.test("files::all_mistakes_are_told_with_their_lines", &[], mistakes);
    suite.test("files::a_log_that_cannot_be_made_is_named", &[], unwritable_log);
    suite.test("files::options_that_make_no_sense_are_refused", &[], senseless);
    suite.test("files::the_version_names_the_api", &[], version);
    suite.test("files::one_boots_linux_and_its_status_is_the_exit_code", &[Need::Kvm, Need::Linux], boots);
}

fn mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json").display().to_string();
    fs::write(&path, "{\n \"machine-config\": {\"vcpu_count\": 0},\n \"drive\": [],\n \"vsock\": {}\n}")
        .unwrap();

    let refused = underlay(&["run", "--no-api", "--config-file", &path]);

    assert_eq!(refused.code, Some(2), "{refused:?}");
    for expected in [
        format!("{path}:1:1: boot-source: is needed"),
        format!("{path}:2:20: machine-config.mem_size_mib: missing field"),
        format!("{path}:2:35: machine-config.vcpu_count: must be 1 to 32"),
        format!("{path}:3:11: drive: unknown field"),
        format!("{path}:4:11: vsock: "),
    ] {
        assert!(refused.stderr.contains(&expected), "no {expected:?} in:\n{}", refused.stderr);
    }
    assert_eq!(refused.stderr.lines().count(), 6, "{}", refused.stderr);
}

/// Where a link leads to is found out when the log is made.
fn unwritable_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("kernel"), "kernel").unwrap();
    symlink("/nowhere/log", path("log")).unwrap();
    let config =
        json!({"boot-source": {"kernel_image_path": path("kernel")}, "logger": {"log_path": path("log")}});
    fs::write(path("config.json"), config.to_string()).unwrap();

    let refused = underlay(&["run", "--no-api", "--config-file", &path("config.json")]);

    assert_eq!(refused.code, Some(2), "{refused:?}");
    let expected = format!("logger.log_path: cannot write the log to {}: No such file", path("log"));
    assert!(refused.stderr.contains(&expected), "no {expected:?} in:\n{}", refused.stderr);
}

fn senseless() {
    for (args, words) in [
        (&["run"][..], "--kernel"),
        (&["run", "--no-api", "--api-sock", "/nowhere"], "--no-api"),
        (&["run", "--config-file", "a", "--kernel", "b"], "--kernel"),
        (&["run", "--config-file", "a", "--mem", "64M"], "--mem"),
        (&["run", "--api-sock", "/nowhere", "--vcpus", "2"], "--kernel"),
        (&["run", "--api-sock", "/nowhere/api"], "/nowhere/api"),
        (&["run", "--api-sock", "a", "--id", "a_b"], "--id"),
        (&["run", "--api-sock", "a", "--level", "Loud"], "Loud"),
        (&["run", "--config-file", "/nowhere/config"], "/nowhere/config"),
        (&["run", "--api-sock", "a", "--log-path", "/nowhere/log"], "/nowhere/log"),
    ] {
        let refused = underlay(args);
        assert_eq!(refused.code, Some(2), "{args:?}: {refused:?}");
        assert!(refused.stderr.contains(words), "{args:?}: {refused:?}");
    }
}

fn version() {
    let told = underlay(&["run", "--version"]);
    assert_eq!(told.code, Some(0));
    assert!(told.stdout.contains("Firecracker v1."), "{told:?}");
}

fn boots() {
    let linux = Linux::built().unwrap();
    let _turn = Turn::wait(1);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let config = json!({
        "boot-source": {
            "kernel_image_path": linux.kernel,
            "initrd_path": linux.initrd,
            "boot_args": linux.line_for("exit:7"),
        },
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 64, "backing": "shmem"},
        "logger": {"log_path": path("log"), "level": "Info", "show_level": true, "show_log_origin": true},
        "metrics": {"metrics_path": path("metrics"), "emit_id": true},
        "entropy": {},
    });
    fs::write(path("config.json"), config.to_string()).unwrap();

    let mut run = Command::new(underlay_path());
    run.args([
        "run",
        "--no-api",
        "--no-seccomp",
        "--seccomp-filter",
        "/dev/null",
        "--boot-timer",
        "--id",
        "from-a-file",
        "--config-file",
    ]);
    let output = run.arg(path("config.json")).output().unwrap();

    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("init: up cpus=1"), "{output:?}");
    // One more for every minute that it took.
    let lines = fs::read_to_string(path("metrics")).unwrap();
    let metrics: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&metrics["id"], &metrics["memory"]["guest_bytes"]),
        (&json!("from-a-file"), &json!(64 << 20))
    );
    assert!(fs::exists(path("log")).unwrap());
}
