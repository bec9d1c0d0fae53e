//! A real Linux, configured, started, paused, squeezed and watched by curl; and a guest that reads its keyboard.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::Command,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use underlay_tests::{Linux, Need, Suite, Turn, write_tiny_kernel};

use super::served::{Served, wait_until};

pub(crate) fn add_to(suite: &mut Suite) {
    let curl = Need::Program("curl");
    let needs = [Need::Kvm, Need::Linux, Need::ManagedFaults, curl, Need::Program("sha256sum")];
    suite.test("guests::linux_on_managed_memory_is_driven_by_curl", &needs, driven);
    suite.test("guests::ctrl_alt_del_arrives_at_a_guest_that_listens", &[Need::Kvm, curl], keys);
}

/// What the guest holds and verifies over and over, in MiB.
const HELD_MIB: u32 = 16;

fn driven() {
    let linux = Linux::built().unwrap();
    let _turn = Turn::wait(1);
    let mut vm = Served::start(&["--id", "driven", "--backing", "managed_4kb"]);
    configure(&vm, &linux);
    vm.tell("PUT", "/actions", &json!({"action_type": "InstanceStart"}));
    assert_eq!(vm.get("/")["state"], "Running");

    replace_the_drive(&mut vm);
    vm.wait_for("init: holding");
    squeeze(&vm);
    hint(&vm);
    pause(&vm);
    crowd(&mut vm);

    let (status, no_keyboard) = vm.curl("PUT", "/actions", Some(&json!({"action_type": "SendCtrlAltDel"})));
    assert!(status == 400 && no_keyboard["fault_message"].is_string(), "{no_keyboard}");
    metrics(&vm);
    kill(Pid::from_raw(vm.pid().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(vm.wait().code(), Some(143));
    assert!(!vm.socket().exists());
    assert!(!vm.console().contains("init: failed"), "{}", vm.console());
}

fn configure(vm: &Served, linux: &Linux) {
    fs::write(vm.path("disk"), vec![0; 1 << 20]).unwrap();
    vm.tell("PUT", "/machine-config", &json!({"vcpu_count": 1, "mem_size_mib": 128}));
    let source = json!({
        "kernel_image_path": linux.kernel,
        "initrd_path": linux.initrd,
        "boot_args": linux.line_for(&format!("disk-changes,forever:{HELD_MIB}")),
    });
    vm.tell("PUT", "/boot-source", &source);
    let drive = json!({"drive_id": "d", "is_root_device": false, "path_on_host": vm.path("disk")});
    vm.tell("PUT", "/drives/d", &drive);
    let balloon = json!({
        "amount_mib": 0,
        "deflate_on_oom": true,
        "stats_polling_interval_s": 1,
        "free_page_hinting": true,
    });
    vm.tell("PUT", "/balloon", &balloon);
    vm.tell("PUT", "/metrics", &json!({"metrics_path": vm.path("metrics")}));
}

/// Another file of another size in place of the drive: the guest is told, and reads that.
fn replace_the_drive(vm: &mut Served) {
    vm.wait_for("init: test disk-changes");
    let other: Vec<u8> =
        (0_u32..1 << 19).flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    fs::write(vm.path("other"), &other).unwrap();
    let missing = json!({"drive_id": "d", "path_on_host": vm.path("missing")});
    assert_eq!(vm.curl("PATCH", "/drives/d", Some(&missing)).0, 400);

    vm.tell("PATCH", "/drives/d", &json!({"drive_id": "d", "path_on_host": vm.path("other")}));

    let sum = Command::new("sha256sum").arg(vm.path("other")).output().unwrap().stdout;
    let sum = String::from_utf8(sum).unwrap();
    vm.wait_for("init: passed disk-changes");
    let expected = format!("init: disk-changes bytes={} sha256={}", other.len(), &sum[..64]);
    assert!(vm.console().contains(&expected), "no {expected:?} in {}", vm.console());
}

/// The balloon takes what the guest does not hold, and gives it back.
fn squeeze(vm: &Served) {
    vm.tell("PATCH", "/balloon", &json!({"amount_mib": 32}));
    wait_until("the balloon holds 32 MiB", || vm.get("/balloon/statistics")["actual_mib"] == 32);
    wait_until("the guest tells of its memory", || vm.get("/balloon/statistics")["free_memory"].is_u64());
    vm.tell("PATCH", "/balloon", &json!({"amount_mib": 0}));
    wait_until("the balloon is empty", || vm.get("/balloon/statistics")["actual_mib"] == 0);
}

/// The guest hints at its free pages, once when it may use them again at once and once when it is to wait.
fn hint(vm: &Served) {
    let status = || vm.get("/balloon/hinting/status");
    assert_eq!(status(), json!({"host_cmd": 0, "guest_cmd": null}));
    vm.tell("PATCH", "/balloon/hinting/start", &json!({"acknowledge_on_stop": true}));
    wait_until("the guest has hinted", || status() == json!({"host_cmd": 1, "guest_cmd": 0}));

    vm.tell("PATCH", "/balloon/hinting/start", &json!({"acknowledge_on_stop": false}));
    let run = status()["host_cmd"].clone();
    assert!(run.as_u64() > Some(1), "{run}");
    wait_until("the guest has hinted again", || status() == json!({"host_cmd": run, "guest_cmd": 0}));
    vm.tell("PATCH", "/balloon/hinting/stop", &json!({}));
    assert_eq!(status()["host_cmd"], 1);
}

/// Paused, it touches nothing; what is asked for meanwhile is shown.
fn pause(vm: &Served) {
    vm.tell("PATCH", "/vm", &json!({"state": "Paused"}));
    let before = vm.get("/memory");
    thread::sleep(Duration::from_millis(200));
    let paused = vm.get("/memory");
    assert_eq!(before["faults"], paused["faults"]);
    assert_eq!((&paused["backing"], &paused["resolved_by"]), (&json!("managed_4kb"), &json!("underlay")));
    assert!(paused["fault_latency"]["p99_ns"].as_u64() >= paused["fault_latency"]["p50_ns"].as_u64());
    assert!(paused["pss_bytes"].as_u64() >= Some(u64::from(HELD_MIB) << 20), "{paused}");

    let policy = json!({"range": {"start": 64 << 20, "length": 4 << 20}, "name": "mine"});
    vm.tell("PUT", "/memory/policy", &policy);
    let vmas = vm.get("/memory")["vmas"].clone();
    let mine = vmas.as_array().unwrap().iter().find(|vma| vma["name"] == "mine").unwrap();
    assert_eq!((&mine["start"], &mine["length"]), (&json!(64 << 20), &json!(4 << 20)));
    let beyond = json!({"start": 128 << 20, "length": 4096});
    assert_eq!(vm.curl("POST", "/memory/discard", Some(&beyond)).0, 400);
    vm.tell("PATCH", "/vm", &json!({"state": "Resumed"}));
}

/// 50 clients at once, and one that has sent half a request: the guest goes on, and all are answered.
fn crowd(vm: &mut Served) {
    let mut slow = UnixStream::connect(vm.socket()).unwrap();
    slow.write_all(b"GET /version HTTP/1.1\r\nConnection: close\r\nHo").unwrap();
    let alive = vm.console().matches("init: alive").count();
    thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| assert_eq!(vm.get("/memory")["backing"], "managed_4kb"));
        }
    });

    wait_until("the guest goes on", || vm.console().matches("init: alive").count() > alive + 1);
    slow.write_all(b"st: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// What has been done is counted.
fn metrics(vm: &Served) {
    vm.tell("PUT", "/actions", &json!({"action_type": "FlushMetrics"}));
    let lines = fs::read_to_string(vm.path("metrics")).unwrap();
    // A line has what came since the one before; one may have come by itself.
    let total = |group: &str, name: &str| -> u64 {
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter_map(|line| line[group][name].as_u64()).sum()
    };
    assert!(total("balloon", "inflate_pages") >= 8192, "{lines}");
    assert!(total("balloon", "free_page_hint_freed") >= 32 << 20, "{lines}");
    assert!(total("faults", "base") > 0, "{lines}");
}

/// A driver of a keyboard that polls: switches interrupts on and the keyboard too, says so, and writes each of 11 codes to
/// the serial port as two letters.
///
/// mov $0x60, %al; out %al, $0x64; mov $0x01, %al; out %al, $0x60; mov $0x3f8, %dx; mov $'!', %al; out %al, (%dx);
/// mov $11, %ecx; 1: in $0x64, %al; test $1, %al; je 1b; in $0x60, %al; mov %al, %ah; shr $4, %al; add $'A', %al;
/// out %al, (%dx); mov %ah, %al; and $15, %al; add $'A', %al; out %al, (%dx); dec %ecx; jne 1b; mov $0x501, %dx;
/// mov $42, %al; out %al, (%dx); hlt
const KEYBOARD_DRIVER: &[u8] = &[
    0xb0, 0x60, 0xe6, 0x64, 0xb0, 0x01, 0xe6, 0x60, 0x66, 0xba, 0xf8, 0x03, 0xb0, b'!', 0xee, 0xb9, 11, 0, 0,
    0, 0xe4, 0x64, 0xa8, 0x01, 0x74, 0xfa, 0xe4, 0x60, 0x88, 0xc4, 0xc0, 0xe8, 4, 0x04, b'A', 0xee, 0x88,
    0xe0, 0x24, 15, 0x04, b'A', 0xee, 0xff, 0xc9, 0x75, 0xe5, 0x66, 0xba, 0x01, 0x05, 0xb0, 42, 0xee, 0xf4,
];

fn keys() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    write_tiny_kernel(&kernel, KEYBOARD_DRIVER);
    let options = ["--kernel", kernel.to_str().unwrap(), "--mem", "16M"];
    let mut vm = Served::start_in(folder, &options);
    vm.wait_for("!");

    vm.tell("PUT", "/actions", &json!({"action_type": "SendCtrlAltDel"}));

    assert_eq!(vm.wait().code(), Some(42));
    // Ctrl, Alt and Del of set 2: pressed, and let go in the other order.
    let codes = [0x14_u8, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14];
    let letters =
        codes.iter().flat_map(|code| [code >> 4, code & 15]).map(|nibble| char::from(b'A' + nibble));
    assert_eq!(vm.console(), format!("!{}", letters.collect::<String>()));
}
