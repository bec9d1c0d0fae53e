//! What a client may ask for before the start, and what it gets.

use super::*;

#[test]
fn an_instance_tells_its_name_and_state() {
    let setup = Setup::new();
    setup.client().get("/").assert_json(&format!(
        r#"{{"id":"vm-1","state":"Not started","vmm_version":"{}","app_name":"underlay"}}"#,
        env!("CARGO_PKG_VERSION")
    ));
    let version = setup.client().get("/version");
    assert!(at(&version, "/firecracker_version").as_str().unwrap().starts_with("1."));
}

#[test]
fn the_machine_has_firecrackers_defaults() {
    let setup = Setup::new();
    let mut client = setup.client();
    client.get("/machine-config").assert_json(
        r#"{"vcpu_count":1,"mem_size_mib":128,"smt":false,"track_dirty_pages":false,"huge_pages":"None"}"#,
    );

    client.put("/machine-config", r#"{"vcpu_count":2,"mem_size_mib":256,"huge_pages":"2M"}"#).assert_done();
    client.patch("/machine-config", r#"{"vcpu_count":3}"#).assert_done();
    client.get("/machine-config").assert_json(
        r#"{"vcpu_count":3,"mem_size_mib":256,"smt":false,"track_dirty_pages":false,"huge_pages":"2M"}"#,
    );

    client.patch("/machine-config", r#"{"backing":"managed_4kb"}"#).assert_done();
    client.get("/machine-config").assert_json(
        r#"{"vcpu_count":3,"mem_size_mib":256,"smt":false,"track_dirty_pages":false,"huge_pages":"None",
            "backing":"managed_4kb"}"#,
    );
}

#[test]
fn all_that_was_configured_can_be_read_back() {
    let setup = Setup::new();
    let mut client = setup.client();
    let put =
        |client: &mut Client, path: &str, body: &str| client.put(path, &setup.named(body)).assert_done();
    put(&mut client, "/boot-source", r#"{"kernel_image_path":"KERNEL","boot_args":"quiet"}"#);
    put(&mut client, "/drives/a", r#"{"drive_id":"a","is_root_device":false,"path_on_host":"DISK"}"#);
    put(
        &mut client,
        "/drives/root",
        r#"{"drive_id":"root","is_root_device":true,"path_on_host":"DISK","is_read_only":true}"#,
    );
    put(
        &mut client,
        "/network-interfaces/eth0",
        r#"{"iface_id":"eth0","host_dev_name":"tap0","guest_mac":"06:00:AC:10:00:02","rx_rate_limiter":{}}"#,
    );
    put(&mut client, "/balloon", r#"{"amount_mib":8,"deflate_on_oom":false}"#);
    put(&mut client, "/entropy", "{}");
    put(&mut client, "/metrics", r#"{"metrics_path":"DIR/metrics"}"#);

    let config = client.get("/vm/config");

    assert_eq!(config.status, 200);
    assert_eq!(at(&config, "/boot-source/boot_args"), "quiet");
    assert_eq!(at(&config, "/boot-source/initrd_path"), Value::Null);
    assert_eq!(at(&config, "/drives/0/drive_id"), "root");
    assert_eq!(at(&config, "/drives/0/is_read_only"), true);
    assert_eq!(at(&config, "/drives/1/cache_type"), "Unsafe");
    assert_eq!(at(&config, "/network-interfaces/0/guest_mac"), "06:00:ac:10:00:02");
    assert_eq!(at(&config, "/machine-config/mem_size_mib"), 128);
    assert_eq!(at(&config, "/balloon/stats_polling_interval_s"), 0);
    assert_eq!(at(&config, "/vsock"), Value::Null);
    client.get("/balloon").assert_json(
        r#"{"amount_mib":8,"deflate_on_oom":false,"stats_polling_interval_s":0,"free_page_hinting":false,
            "free_page_reporting":false}"#,
    );
}

#[test]
fn a_start_takes_what_was_configured() {
    let setup = Setup::new();
    let mut client = setup.client();
    client
        .put("/machine-config", r#"{"vcpu_count":2,"mem_size_mib":64,"huge_pages":"Transparent"}"#)
        .assert_done();
    client.put("/actions", r#"{"action_type":"InstanceStart"}"#).assert_fault(&["kernel", "/boot-source"]);
    let source = setup.named(r#"{"kernel_image_path":"KERNEL","boot_args":"a=b"}"#);
    client.put("/boot-source", &source).assert_done();

    client.put("/actions", r#"{"action_type":"InstanceStart"}"#).assert_done();

    assert_eq!(setup.notes.take(), [r#"launch 2 vCPUs 64 MiB anonymous_thp "a=b""#]);
    assert_eq!(at(&client.get("/"), "/state"), "Running");
}

#[test]
fn a_start_that_failed_can_be_tried_again() {
    let setup = Setup::new();
    let mut client = setup.client();
    client.put("/boot-source", &setup.named(r#"{"kernel_image_path":"KERNEL"}"#)).assert_done();
    setup.notes.fail(true);

    let start = r#"{"action_type":"InstanceStart"}"#;
    client.put("/actions", start).assert_fault(&["it did not work: out of ideas"]);
    assert_eq!(at(&client.get("/"), "/state"), "Not started");
    client.patch("/machine-config", r#"{"vcpu_count":2}"#).assert_done();
    setup.notes.fail(false);

    client.put("/actions", start).assert_done();
}

#[test]
fn metrics_are_written_when_asked_for_and_at_the_end() {
    let mut setup = Setup::new();
    let mut client = setup.client();
    let flush = r#"{"action_type":"FlushMetrics"}"#;
    client.put("/actions", flush).assert_fault(&["PUT /metrics"]);
    client
        .put("/metrics", &setup.named(r#"{"metrics_path":"DIR/nowhere/m"}"#))
        .assert_fault(&["metrics_path"]);
    let config = setup.named(r#"{"metrics_path":"DIR/metrics","emit_id":true}"#);
    client.put("/metrics", &config).assert_done();
    client.put("/metrics", &config).assert_fault(&["metrics_path", "already"]);

    client.put("/actions", flush).assert_done();
    setup.end();

    let text = fs::read_to_string(setup.path("metrics")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["id"], "vm-1");
    assert_eq!(lines[0]["api_requests"]["put_count"], 4);
    assert_eq!(lines[0]["api_requests"]["put_fails"], 3);
    // The flush itself came after its own line.
    assert_eq!(lines[1]["api_requests"]["put_count"], 1);
}

#[test]
fn metrics_can_be_read_as_open_metrics() {
    let setup = Setup::started();
    let reply = setup.client().get("/metrics");

    assert_eq!(reply.status, 200);
    assert!(reply.head.contains("application/openmetrics-text; version=1.0.0"), "{reply:?}");
    assert!(reply.body.contains("underlay_block_read_bytes_total{id=\"disk\"} 512\n"), "{reply:?}");
    assert!(reply.body.contains("underlay_api_requests_put_count_total 5\n"), "{reply:?}");
    assert!(reply.body.ends_with("# EOF\n"), "{reply:?}");
}

#[test]
fn the_socket_is_gone_at_the_end() {
    let mut setup = Setup::new();
    assert!(setup.path("api").exists());
    setup.end();
    assert!(!setup.path("api").exists());
}
