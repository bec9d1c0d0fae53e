//! What nobody should say, and what they hear.

use std::os::unix::net::UnixStream;

use super::*;

#[test]
fn every_wrong_body_names_its_field() {
    let setup = Setup::new();
    let mut client = setup.client();
    let drive =
        |more: &str| format!(r#"{{"drive_id":"a","is_root_device":false,"path_on_host":"DISK",{more}}}"#);
    let net = |more: &str| format!(r#"{{"iface_id":"a","host_dev_name":"t",{more}}}"#);
    let limiter = r#"{"ops":{"size":1,"refill_time":1}}"#;
    for (path, body, words) in [
        (
            "/machine-config",
            r#"{"vcpu_count":"1","mem_size_mib":1}"#.to_owned(),
            vec!["vcpu_count", "string"],
        ),
        ("/machine-config", r#"{"vcpu_count":256,"mem_size_mib":1}"#.to_owned(), vec!["vcpu_count", "256"]),
        ("/machine-config", r#"{"vcpu_count":1}"#.to_owned(), vec!["mem_size_mib"]),
        ("/machine-config", r#"{"vcpu_count":1,"mem_size_mib":1,"ht":true}"#.to_owned(), vec!["ht"]),
        (
            "/machine-config",
            r#"{"vcpu_count":1,"vcpu_count":1,"mem_size_mib":1}"#.to_owned(),
            vec!["vcpu_count"],
        ),
        (
            "/machine-config",
            r#"{"vcpu_count":1,"mem_size_mib":1,"huge_pages":"1G"}"#.to_owned(),
            vec!["huge_pages"],
        ),
        (
            "/machine-config",
            r#"{"vcpu_count":1,"mem_size_mib":1,"backing":"shmen"}"#.to_owned(),
            vec!["backing", "shmem"],
        ),
        ("/machine-config", r#"{"vcpu_count":0,"mem_size_mib":1}"#.to_owned(), vec!["vcpu_count", "32"]),
        (
            "/machine-config",
            r#"{"vcpu_count":0,"mem_size_mib":0,"smt":true}"#.to_owned(),
            vec!["vcpu_count", "mem_size_mib", "smt"],
        ),
        ("/machine-config", r#"{"vcpu_count":1,"mem_size_mib":1}}"#.to_owned(), vec!["after its end"]),
        ("/machine-config", "{".to_owned(), vec!["EOF"]),
        ("/machine-config", "{bad".to_owned(), vec!["should be: key must be a string"]),
        ("/machine-config", "\u{fffd}".to_owned(), vec!["expected value"]),
        (
            "/boot-source",
            r#"{"kernel_image_path":"/nowhere"}"#.to_owned(),
            vec!["kernel_image_path", "/nowhere"],
        ),
        ("/boot-source", r#"{"kernel":"/nowhere"}"#.to_owned(), vec!["kernel", "unknown field"]),
        ("/drives/b", drive(r#""is_read_only":false"#), vec!["drive_id", "\"b\"", "\"a\""]),
        ("/drives/a", drive(r#""socket":"s""#), vec!["socket"]),
        ("/drives/a", drive(r#""io_engine":"Async""#), vec!["io_engine"]),
        ("/drives/a", drive(r#""cache_type":"None""#), vec!["cache_type"]),
        ("/drives/a", drive(&format!(r#""rate_limiter":{limiter}"#)), vec!["rate_limiter"]),
        ("/drives/a", r#"{"drive_id":"a","is_root_device":false}"#.to_owned(), vec!["path_on_host"]),
        ("/drives/a", r#"{"drive_id":"a","path_on_host":"DISK"}"#.to_owned(), vec!["is_root_device"]),
        (
            "/drives/a",
            r#"{"drive_id":"a","is_root_device":false,"path_on_host":"DIR"}"#.to_owned(),
            vec!["path_on_host"],
        ),
        (
            "/drives/a-b",
            r#"{"drive_id":"a-b","is_root_device":false,"path_on_host":"DISK"}"#.to_owned(),
            vec!["drive_id"],
        ),
        ("/network-interfaces/a", net(r#""guest_mac":"00""#), vec!["guest_mac"]),
        ("/network-interfaces/a", net(r#""guest_mac":"01:00:00:00:00:00""#), vec!["guest_mac"]),
        ("/network-interfaces/a", net(r#""mtu":1500"#), vec!["mtu"]),
        ("/network-interfaces/a", net(&format!(r#""tx_rate_limiter":{limiter}"#)), vec!["tx_rate_limiter"]),
        (
            "/network-interfaces/a",
            r#"{"iface_id":"a","host_dev_name":"a-name-too-long-for-it"}"#.to_owned(),
            vec!["host_dev_name"],
        ),
        ("/balloon", r#"{"amount_mib":129,"deflate_on_oom":true}"#.to_owned(), vec!["amount_mib", "128"]),
        ("/balloon", r#"{"amount_mib":-1,"deflate_on_oom":true}"#.to_owned(), vec!["amount_mib"]),
        ("/balloon", r#"{"amount_mib":1}"#.to_owned(), vec!["deflate_on_oom"]),
        ("/entropy", format!(r#"{{"rate_limiter":{limiter}}}"#), vec!["rate_limiter"]),
        (
            "/entropy",
            r#"{"rate_limiter":{"bandwidth":{"size":"1"}}}"#.to_owned(),
            vec!["rate_limiter.bandwidth.size"],
        ),
        (
            "/entropy",
            r#"{"rate_limiter":{"bandwidth":{"size":0,"refill_time":0,"bogus":1}}}"#.to_owned(),
            vec!["rate_limiter.bandwidth.bogus", "unknown field"],
        ),
        ("/logger", r#"{"level":"Loud"}"#.to_owned(), vec!["level", "Loud"]),
        ("/logger", r#"{"log_path":"/nowhere/log"}"#.to_owned(), vec!["log_path"]),
        ("/metrics", r#"{"metrics_path":"/nowhere/m"}"#.to_owned(), vec!["metrics_path"]),
        ("/metrics", r#"{"metrics_path":"DIR/m","properties":{"a":1}}"#.to_owned(), vec!["properties.a"]),
        ("/actions", r#"{"action_type":"Fly"}"#.to_owned(), vec!["action_type", "Fly"]),
        ("/actions", r#"{"action":"InstanceStart"}"#.to_owned(), vec!["action"]),
    ] {
        client.put(path, &setup.named(&body)).assert_fault(&words);
    }
    client.patch("/vm", r#"{"state":"Stopped"}"#).assert_fault(&["state", "Stopped"]);
    client.patch("/machine-config", "{}").assert_fault(&["vcpu_count"]);

    // After all that, nothing is configured.
    assert_eq!(at(&client.get("/vm/config"), "/boot-source"), Value::Null);
    assert_eq!(at(&client.get("/vm/config"), "/drives"), Value::Array(Vec::new()));
}

#[test]
fn what_firecracker_has_and_underlay_does_not_is_said_so() {
    let setup = Setup::new();
    let mut client = setup.client();
    for (method, path, word) in [
        ("PUT", "/snapshot/create", "snapshots"),
        ("PUT", "/snapshot/load", "snapshots"),
        ("PUT", "/vsock", "vsock"),
        ("PUT", "/mmds", "metadata"),
        ("GET", "/mmds", "metadata"),
        ("PUT", "/mmds/config", "metadata"),
        ("PUT", "/cpu-config", "CPU templates"),
        ("PUT", "/pmem/a", "pmem"),
        ("PUT", "/serial", "serial"),
        ("GET", "/hotplug/memory", "hotplug"),
    ] {
        let body = if method == "GET" { "" } else { "{}" };
        client.request(method, path, body).assert_fault(&["underlay has no", word]);
    }
}

#[test]
fn a_wrong_path_or_method_is_named() {
    let setup = Setup::new();
    let mut client = setup.client();
    client.get("/nonsense").assert_fault(&["GET /nonsense"]);
    client.get("/drives").assert_fault(&["GET /drives"]);
    client.get("/vm").assert_fault(&["GET /vm", "PATCH"]);
    client.request("DELETE", "/drives/a", "").assert_fault(&["DELETE /drives/a", "PUT, PATCH"]);
    client.put("/drives", "{}").assert_fault(&["PUT /drives"]);
    client.put("/boot-source", "").assert_fault(&["PUT needs a body"]);
    client.request("GET", "/version", "{}").assert_fault(&["GET takes no body"]);
}

#[test]
fn a_body_that_is_too_long_is_not_read() {
    let setup = Setup::new();
    let mut client = setup.client();
    let head = format!("PUT /boot-source HTTP/1.1\r\nContent-Length: {}\r\n\r\n", LONGEST_BODY + 1);
    client.send(head.as_bytes());
    let reply = client.reply();
    assert_eq!(reply.status, 413);
    assert!(reply.body.contains("fault_message"), "{reply:?}");

    // One that does not say how long it is, is read up to there.
    let mut client = setup.client();
    client.send(b"PUT /boot-source HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..=LONGEST_BODY / 0x1000 {
        client.send(b"1000\r\n");
        client.send(&[b' '; 0x1000]);
        client.send(b"\r\n");
    }
    assert_eq!(client.reply().status, 413);

    setup.client().get("/").json();
}

#[test]
fn what_is_no_http_is_turned_away() {
    let setup = Setup::new();
    let endless = vec![b'A'; 20_000];
    for garbage in [&b"\x00\x01\x02\r\n\r\n"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", &endless] {
        let mut client = setup.client();
        client.send(garbage);
        let reply = client.reply();
        assert!((400..500).contains(&reply.status), "{reply:?}");
    }
    // One that goes in the middle of a word leaves nothing behind.
    let mut half = setup.client();
    half.send(b"PUT /boot-source HTTP/1.1\r\nContent-Length: 100\r\n\r\n{\"kern");
    drop(half);
    drop(UnixStream::connect(setup.path("api")).unwrap());

    assert_eq!(setup.client().get("/").status, 200);
}

#[test]
fn firecrackers_own_tolerance_is_kept() {
    let setup = Setup::new();
    let mut client = setup.client();
    assert_eq!(client.get("/machine-config/").status, 200);
    assert_eq!(client.get("/machine-config?x=y").status, 200);
    client.put("/entropy/", r#"{"rate_limiter":null}"#).assert_done();
    client.put("/entropy", r#"{"rate_limiter":{"bandwidth":{"size":0,"refill_time":0}}}"#).assert_done();
    client.put("/machine-config", r#"{"vcpu_count":1,"mem_size_mib":1,"cpu_template":"None"}"#).assert_done();
    client.put("/logger", r#"{"level":"WARN","show_level":true}"#).assert_done();
}
