use std::{fs, io::Read, os::unix::fs::OpenOptionsExt};

use serde_json::Value as Json;

use super::*;
use crate::api::schema::{InstanceId, MetricsConfig};

fn sample(reads: u64) -> MetricSet {
    let mut metrics = MetricSet::default();
    metrics.group("vcpu").counter("exit_io_in", 3);
    metrics.group_of("block", "a").counter("read_count", reads).gauge("queued", 1);
    metrics.group_of("block", "b\"").counter("read_count", 10).gauge("queued", 2);
    metrics
}

fn config(path: &std::path::Path, more: &str) -> MetricsConfig {
    serde_json::from_str(&format!(r#"{{"metrics_path":{path:?}{more}}}"#)).unwrap()
}

#[track_caller]
fn lines(path: &std::path::Path) -> Vec<Json> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_family_stands_together_with_all_its_ids() {
    assert_eq!(
        open_metrics(&sample(5)),
        "\
# TYPE underlay_vcpu_exit_io_in counter
underlay_vcpu_exit_io_in_total 3
# TYPE underlay_block_read_count counter
underlay_block_read_count_total{id=\"a\"} 5
underlay_block_read_count_total{id=\"b\\\"\"} 10
# TYPE underlay_block_queued gauge
underlay_block_queued{id=\"a\"} 1
underlay_block_queued{id=\"b\\\"\"} 2
# EOF
"
    );
}

#[test]
fn a_line_has_what_came_since_the_line_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics");
    let mut writer = MetricsWriter::open(&config(&path, ""), &InstanceId::default()).unwrap();

    writer.write(&sample(5)).unwrap();
    writer.write(&sample(7)).unwrap();

    let [first, second] = lines(&path).try_into().unwrap();
    assert_eq!((&first["vcpu"]["exit_io_in"], &second["vcpu"]["exit_io_in"]), (&3.into(), &0.into()));
    assert_eq!((&first["block_a"]["read_count"], &second["block_a"]["read_count"]), (&5.into(), &2.into()));
    assert_eq!((&first["block"]["read_count"], &second["block"]["read_count"]), (&15.into(), &2.into()));
    assert_eq!((&first["block"]["queued"], &second["block"]["queued"]), (&3.into(), &3.into()));
    assert!(first["utc_timestamp_ms"].as_u64() > Some(1_500_000_000_000));
    assert_eq!((&first["id"], &first["properties"]), (&Json::Null, &Json::Null));
}

#[test]
fn id_and_properties_are_there_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics");
    let config = config(&path, r#","emit_id":true,"properties":{"k":"v"}"#);
    let mut writer = MetricsWriter::open(&config, &"vm-1".parse().unwrap()).unwrap();

    writer.write(&MetricSet::default()).unwrap();

    let [line] = lines(&path).try_into().unwrap();
    assert_eq!((&line["id"], &line["properties"]["k"]), (&"vm-1".into(), &"v".into()));
}

#[test]
fn a_fifo_that_nobody_reads_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut writer = MetricsWriter::open(&config(&path, ""), &InstanceId::default()).unwrap();

    // A pipe has room for 64 KiB.
    for _ in 0..1000 {
        writer.write(&sample(1)).unwrap();
    }

    // Whoever comes at last reads what there was room for, and how much there was not.
    let mut reader = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    let mut kept = vec![0; 1 << 20];
    let length = reader.read(&mut kept).unwrap();
    assert!(kept[..length].ends_with(b"}\n"));
    writer.write(&sample(1)).unwrap();
    let length = reader.read(&mut kept).unwrap();
    let line: Json = serde_json::from_slice(&kept[..length]).unwrap();
    assert!(line["logger"]["missed_metrics_count"].as_u64() > Some(0), "{line}");
}
