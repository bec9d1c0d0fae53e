//! A real Linux, configured, started, paused, squeezed and watched by curl.

use std::{fs, thread, time::Duration};

use serde_json::{Value, json};
use underlay_tests::{Linux, Need, Suite, Turn};

use super::served::{Served, wait_until};

pub(crate) fn add_to(suite: &mut Suite) {
    let needs = [Need::Kvm, Need::Linux, Need::ManagedFaults, Need::Program("curl")];
    suite.test("guests::linux_on_managed_memory_is_driven_by_curl", &needs, driven);
}

/// What the guest holds and verifies over and over, in MiB.
const HELD_MIB: u32 = 16;

fn driven() {
    let linux = Linux::built().unwrap();
    let _turn = Turn::wait(1);
    let mut vm = Served::start(&["--id", "driven", "--backing", "managed_4kb"]);
    fs::write(vm.path("disk"), vec![0; 1 << 20]).unwrap();
    vm.tell("PUT", "/machine-config", &json!({"vcpu_count": 1, "mem_size_mib": 128}));
    vm.tell(
        "PUT",
        "/boot-source",
        &json!({
            "kernel_image_path": linux.kernel,
            "initrd_path": linux.initrd,
            "boot_args": linux.line_for(&format!("forever:{HELD_MIB}")),
        }),
    );
    let drive = json!({"drive_id": "d", "is_root_device": false, "path_on_host": vm.path("disk")});
    vm.tell("PUT", "/drives/d", &drive);
    vm.tell(
        "PUT",
        "/balloon",
        &json!({"amount_mib": 0, "deflate_on_oom": true, "stats_polling_interval_s": 1}),
    );
    vm.tell("PUT", "/metrics", &json!({"metrics_path": vm.path("metrics")}));
    vm.tell("PUT", "/actions", &json!({"action_type": "InstanceStart"}));
    assert_eq!(vm.get("/")["state"], "Running");
    vm.wait_for("init: holding");

    // The balloon takes what the guest does not hold.
    vm.tell("PATCH", "/balloon", &json!({"amount_mib": 32}));
    wait_until("the balloon holds 32 MiB", || vm.get("/balloon/statistics")["actual_mib"] == 32);
    wait_until("the guest tells of its memory", || vm.get("/balloon/statistics")["free_memory"].is_u64());

    // Paused, it touches nothing.
    vm.tell("PATCH", "/vm", &json!({"state": "Paused"}));
    let before = vm.get("/memory");
    thread::sleep(Duration::from_millis(200));
    let paused = vm.get("/memory");
    assert_eq!(before["faults"], paused["faults"]);
    assert_eq!((&paused["backing"], &paused["resolved_by"]), (&json!("managed_4kb"), &json!("underlay")));
    assert!(paused["fault_latency"]["p99_ns"].as_u64() >= paused["fault_latency"]["p50_ns"].as_u64());
    assert!(paused["pss_bytes"].as_u64() >= Some(u64::from(HELD_MIB) << 20), "{paused}");

    // What is asked for is shown.
    vm.tell(
        "PUT",
        "/memory/policy",
        &json!({"range": {"start": 64 << 20, "length": 4 << 20}, "name": "mine"}),
    );
    let vmas = vm.get("/memory")["vmas"].clone();
    let mine = vmas.as_array().unwrap().iter().find(|vma| vma["name"] == "mine").unwrap();
    assert_eq!((&mine["start"], &mine["length"]), (&json!(64 << 20), &json!(4 << 20)));
    let beyond = json!({"start": 128 << 20, "length": 4096});
    assert_eq!(vm.curl("POST", "/memory/discard", Some(&beyond)).0, 400);

    vm.tell("PATCH", "/vm", &json!({"state": "Resumed"}));
    vm.tell("PATCH", "/balloon", &json!({"amount_mib": 0}));
    wait_until("the balloon is empty", || vm.get("/balloon/statistics")["actual_mib"] == 0);
    let (status, no_keyboard) = vm.curl("PUT", "/actions", Some(&json!({"action_type": "SendCtrlAltDel"})));
    assert!(status == 400 && no_keyboard["fault_message"].is_string(), "{no_keyboard}");
    vm.tell("PUT", "/actions", &json!({"action_type": "FlushMetrics"}));
    let lines = fs::read_to_string(vm.path("metrics")).unwrap();
    // A line has what came since the one before; one may have come by itself.
    let total = |group: &str, name: &str| -> u64 {
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter_map(|line| line[group][name].as_u64()).sum()
    };
    assert!(total("balloon", "inflate_pages") >= 8192, "{lines}");
    assert!(total("faults", "base") > 0, "{lines}");

    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(vm.pid().try_into().unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert_eq!(vm.wait().code(), Some(143));
    assert!(!vm.socket().exists());
    assert!(!vm.console().contains("init: failed"), "{}", vm.console());
}
