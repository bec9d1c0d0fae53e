//! What a client may ask of a microVM that has started, and what it gets.

use super::*;

#[test]
fn it_is_paused_and_resumed() {
    let setup = Setup::started();
    let mut client = setup.client();

    client.patch("/vm", r#"{"state":"Paused"}"#).assert_done();
    assert_eq!(at(&client.get("/"), "/state"), "Paused");
    client.patch("/vm", r#"{"state":"Paused"}"#).assert_done();
    client.patch("/vm", r#"{"state":"Resumed"}"#).assert_done();

    assert_eq!(at(&client.get("/"), "/state"), "Running");
    assert_eq!(setup.notes.take(), ["pause", "pause", "resume"]);
}

#[test]
fn a_pause_that_failed_changes_no_state() {
    let setup = Setup::started();
    let mut client = setup.client();
    setup.notes.fail(true);
    client.patch("/vm", r#"{"state":"Paused"}"#).assert_fault(&["it did not work"]);
    assert_eq!(at(&client.get("/"), "/state"), "Running");
}

#[test]
fn the_balloon_is_changed_and_asked() {
    let setup = Setup::started();
    let mut client = setup.client();

    client.patch("/balloon", r#"{"amount_mib":64}"#).assert_done();
    assert_eq!(at(&client.get("/balloon"), "/amount_mib"), 64);
    client.get("/balloon/statistics").assert_json(
        r#"{"target_pages":256,"actual_pages":128,"target_mib":1,"actual_mib":0,"free_memory":4096}"#,
    );
    client.patch("/balloon/statistics", r#"{"stats_polling_interval_s":5}"#).assert_done();
    client.patch("/balloon/hinting/start", "").assert_done();
    client.patch("/balloon/hinting/start", r#"{"acknowledge_on_stop":false}"#).assert_done();
    client.get("/balloon/hinting/status").assert_json(r#"{"host_cmd":2,"guest_cmd":null}"#);
    client.patch("/balloon/hinting/stop", "").assert_done();

    assert_eq!(
        setup.notes.take(),
        ["balloon 64", "statistics", "interval 5", "hinting true", "hinting false", "hinting stops"]
    );
}

#[test]
fn the_balloon_has_its_limits() {
    let setup = Setup::started();
    let mut client = setup.client();
    client.patch("/balloon", r#"{"amount_mib":129}"#).assert_fault(&["amount_mib", "128"]);
    let off = r#"{"stats_polling_interval_s":0}"#;
    client.patch("/balloon/statistics", off).assert_fault(&["stats_polling_interval_s"]);
    assert_eq!(setup.notes.take(), [""; 0]);
}

#[test]
fn a_drive_is_opened_again() {
    let setup = Setup::started();
    let mut client = setup.client();
    fs::write(setup.path("other"), "").unwrap();

    client
        .patch("/drives/disk", &setup.named(r#"{"drive_id":"disk","path_on_host":"DIR/other"}"#))
        .assert_done();
    client.patch("/drives/disk", r#"{"drive_id":"disk"}"#).assert_done();
    client.patch("/drives/none", r#"{"drive_id":"none"}"#).assert_fault(&["no drive \"none\""]);
    let missing = r#"{"drive_id":"disk","path_on_host":"/nowhere"}"#;
    client.patch("/drives/disk", missing).assert_fault(&["path_on_host", "/nowhere"]);

    let path = at(&client.get("/vm/config"), "/drives/0/path_on_host");
    assert!(path.as_str().unwrap().ends_with("/other"), "{path}");
    assert_eq!(setup.notes.take().len(), 2);
}

#[test]
fn an_interface_has_nothing_to_change() {
    let setup = Setup::started();
    let mut client = setup.client();
    client.patch("/network-interfaces/eth0", r#"{"iface_id":"eth0"}"#).assert_done();
    client.patch("/network-interfaces/x", r#"{"iface_id":"x"}"#).assert_fault(&["network interface \"x\""]);
}

#[test]
fn memory_is_reported_discarded_and_given_a_policy() {
    let setup = Setup::started();
    let mut client = setup.client();

    let report = client.get("/memory");
    assert_eq!((report.status, at(&report, "/guest_bytes")), (200, (1_u64 << 27).into()));
    let discarded = client.request("POST", "/memory/discard", r#"{"start":4096,"length":8192}"#);
    discarded.assert_json(r#"{"freed_bytes":8192,"zeroed_bytes":0,"pinned_bytes":0}"#);
    client.put("/memory/policy", r#"{"range":{"start":0,"length":4096},"huge":"always"}"#).assert_done();

    assert_eq!(setup.notes.take().len(), 2);
    let odd = r#"{"start":1,"length":4096}"#;
    client.request("POST", "/memory/discard", odd).assert_fault(&["start", "4096"]);
    for length in ["0", "7", "18446744073709547520"] {
        let body = format!(r#"{{"start":4096,"length":{length}}}"#);
        client.request("POST", "/memory/discard", &body).assert_fault(&["length"]);
    }
    client.put("/memory/policy", "{}").assert_fault(&["huge"]);
    client.put("/memory/policy", r#"{"huge":"sometimes"}"#).assert_fault(&["huge", "sometimes"]);
    assert_eq!(setup.notes.take(), [""; 0]);
}

#[test]
fn its_keyboard_is_pressed() {
    let setup = Setup::started();
    setup.client().put("/actions", r#"{"action_type":"SendCtrlAltDel"}"#).assert_done();
    assert_eq!(setup.notes.take(), ["ctrl-alt-del"]);
}

#[test]
fn what_was_configured_is_fixed() {
    let setup = Setup::started();
    let mut client = setup.client();
    for (method, path, body, what) in [
        ("PUT", "/boot-source", r#"{"kernel_image_path":"KERNEL"}"#, "boot source"),
        ("PUT", "/machine-config", r#"{"vcpu_count":1,"mem_size_mib":1}"#, "machine configuration"),
        ("PATCH", "/machine-config", r#"{"vcpu_count":1}"#, "machine configuration"),
        ("PUT", "/drives/x", r#"{"drive_id":"x","is_root_device":false,"path_on_host":"DISK"}"#, "drives"),
        ("PUT", "/network-interfaces/x", r#"{"iface_id":"x","host_dev_name":"t"}"#, "network interfaces"),
        ("PUT", "/balloon", r#"{"amount_mib":1,"deflate_on_oom":true}"#, "balloon"),
        ("PUT", "/entropy", "{}", "entropy"),
        ("PUT", "/logger", "{}", "log"),
        ("PUT", "/metrics", r#"{"metrics_path":"DIR/m"}"#, "metrics"),
    ] {
        client
            .request(method, path, &setup.named(body))
            .assert_fault(&[what, "after the microVM has started"]);
    }
    client.put("/actions", r#"{"action_type":"InstanceStart"}"#).assert_fault(&["has been started already"]);
    assert_eq!(setup.notes.take(), [""; 0]);
}

#[test]
fn nothing_can_be_asked_of_what_does_not_run() {
    let setup = Setup::new();
    let mut client = setup.client();
    for (method, path, body) in [
        ("PATCH", "/vm", r#"{"state":"Paused"}"#),
        ("PUT", "/actions", r#"{"action_type":"SendCtrlAltDel"}"#),
        ("PATCH", "/balloon", r#"{"amount_mib":1}"#),
        ("GET", "/balloon/statistics", ""),
        ("PATCH", "/balloon/statistics", r#"{"stats_polling_interval_s":1}"#),
        ("PATCH", "/balloon/hinting/start", ""),
        ("PATCH", "/balloon/hinting/stop", ""),
        ("GET", "/balloon/hinting/status", ""),
        ("PATCH", "/drives/x", r#"{"drive_id":"x"}"#),
        ("PATCH", "/network-interfaces/x", r#"{"iface_id":"x"}"#),
        ("GET", "/memory", ""),
        ("PUT", "/memory/policy", r#"{"huge":"always"}"#),
        ("POST", "/memory/discard", r#"{"start":0,"length":4096}"#),
    ] {
        client.request(method, path, body).assert_fault(&["before the microVM has started"]);
    }
}

#[test]
fn what_was_not_configured_is_not_there() {
    let setup = Setup::new();
    let mut client = setup.client();
    client.get("/balloon").assert_fault(&["no balloon"]);
    client.put("/boot-source", &setup.named(r#"{"kernel_image_path":"KERNEL"}"#)).assert_done();
    client.put("/balloon", r#"{"amount_mib":1,"deflate_on_oom":true}"#).assert_done();
    client.put("/actions", r#"{"action_type":"InstanceStart"}"#).assert_done();

    client.get("/balloon/statistics").assert_fault(&["stats_polling_interval_s"]);
    let on = r#"{"stats_polling_interval_s":1}"#;
    client.patch("/balloon/statistics", on).assert_fault(&["stats_polling_interval_s"]);
    client.patch("/balloon/hinting/start", "").assert_fault(&["free_page_hinting"]);
}
