use std::fs;

use super::*;

/// A folder with a kernel and a drive, and documents that name them by `KERNEL` and `DRIVE`.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("kernel"), "kernel").unwrap();
        fs::write(folder.path().join("drive"), "drive").unwrap();
        Self(folder)
    }

    fn load(&self, document: &str) -> Result<Configuration, ConfigFileError> {
        let file = |name| self.0.path().join(name).display().to_string();
        let document = document.replace("KERNEL", &file("kernel")).replace("DRIVE", &file("drive"));
        let path = self.0.path().join("config.json");
        fs::write(&path, document).unwrap();
        load(&path)
    }

    /// Lines, and what is said of each, up to the given number of characters.
    #[track_caller]
    fn mistakes(&self, document: &str) -> Vec<String> {
        match self.load(document) {
            Err(ConfigFileError::Wrong { mistakes, .. }) => {
                mistakes.into_iter().map(|mistake| format!("{}: {}", mistake.line, mistake.message)).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

#[track_caller]
fn assert_begin(mistakes: &[String], expected: &[&str]) {
    let matching = mistakes.len() == expected.len()
        && mistakes.iter().zip(expected).all(|(mistake, expected)| mistake.starts_with(expected));
    assert!(matching, "{mistakes:#?}\n{expected:#?}");
}

#[test]
fn a_document_of_firecrackers_is_read() {
    let configuration = Files::new()
        .load(
            r#"{
                "boot-source": {"kernel_image_path": "KERNEL", "boot_args": "console=ttyS0", "initrd_path": null},
                "drives": [
                    {"drive_id": "data", "is_root_device": false, "path_on_host": "DRIVE"},
                    {"drive_id": "rootfs", "partuuid": null, "is_root_device": true, "cache_type": "Unsafe",
                     "is_read_only": false, "path_on_host": "DRIVE", "io_engine": "Sync", "rate_limiter": null,
                     "socket": null}
                ],
                "machine-config": {"vcpu_count": 2, "mem_size_mib": 1024, "smt": false, "track_dirty_pages": false,
                                   "huge_pages": "None"},
                "cpu-config": null, "balloon": null, "network-interfaces": [], "vsock": null, "logger": null,
                "metrics": null, "mmds-config": null, "entropy": null, "pmem": [], "memory-hotplug": null
            }"#,
        )
        .unwrap();

    let config = configuration.config();
    assert_eq!((config.machine_config.vcpu_count, config.machine_config.mem_size_mib), (2, 1024));
    assert_eq!(config.command_line(), "console=ttyS0 root=/dev/vda rw");
    assert_eq!(config.drives.iter().map(|drive| &drive.drive_id).collect::<Vec<_>>(), ["rootfs", "data"]);
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let mistakes = Files::new().mistakes(
        r#"{
  "boot-source": {
    "kernel_image_path": "KERNEL",
    "bootargs": "quiet"
  },
  "machine-config": {
    "vcpu_count": "2",
    "mem_size_mib": -1,
    "huge_pages": "4M"
  },
  "drives": [
    {"drive_id": "a", "is_root_device": false, "path_on_host": "DRIVE"},
    {
      "drive_id": "b",
      "is_root_device": "yes"
    },
    {
      "colour": "red"
    }
  ],
  "vsock": {"guest_cid": 3},
  "network-interfaces": [
    {"iface_id": "e", "host_dev_name": "t",
     "guest_mac": "06:00"}
  ],
  "disks": [],
  "balloon": {
    "amount_mib": 1,
    "amount_mib": 2, "deflate_on_oom": false
  }
}"#,
    );

    assert_begin(
        &mistakes,
        &[
            "4: boot-source.bootargs: unknown field `bootargs`",
            "7: machine-config.vcpu_count: invalid type: string \"2\", expected u8",
            "8: machine-config.mem_size_mib: invalid value: integer `-1`, expected u64",
            "9: machine-config.huge_pages: unknown variant `4M`",
            "13: drives[1].path_on_host: is needed",
            "15: drives[1].is_root_device: invalid type: string \"yes\", expected a boolean",
            "17: drives[2].drive_id: missing field `drive_id`",
            "17: drives[2].is_root_device: missing field `is_root_device`",
            "17: drives[2].path_on_host: is needed",
            "18: drives[2].colour: unknown field `colour`",
            "21: vsock: invalid type: map, expected null, since underlay does not have this",
            "24: network-interfaces[0].guest_mac: invalid MAC address",
            "26: disks: unknown field `disks`",
            "29: balloon.amount_mib: is there twice",
        ],
    );
}

#[test]
fn values_that_do_not_go_together_are_told_with_what_cannot_be_read() {
    let mistakes = Files::new().mistakes(
        r#"{
  "boot-source": {"kernel_image_path": "/nowhere/kernel"},
  "machine-config": {"vcpu_count": 99, "mem_size_mib": 64},
  "drives": [
    {"drive_id": "a", "is_root_device": true, "path_on_host": "DRIVE"},
    {"drive_id": "b", "is_root_device": true,
     "path_on_host": "DRIVE"},
    {"drive_id": "a",
     "is_root_device": false, "path_on_host": "DRIVE"}
  ],
  "balloon": {"amount_mib": 4096, "deflate_on_oom": 7}
}"#,
    );

    assert_begin(
        &mistakes,
        &[
            "2: boot-source.kernel_image_path: /nowhere/kernel: No such file",
            "3: machine-config.vcpu_count: must be 1 to 32",
            "6: drives[1].is_root_device: the root device is \"a\" already",
            "8: drives[2].drive_id: \"a\" is there twice",
            "11: balloon.amount_mib: is more than the guest's memory: 64",
            "11: balloon.deflate_on_oom: invalid type",
        ],
    );
}

#[test]
fn each_field_of_a_section_is_told() {
    let mistakes = Files::new().mistakes(
        r#"{
  "boot-source": {
    "kernel_image_path": "/nowhere/kernel",
    "initrd_path": "/nowhere/initrd",
    "boot_args": "a\nb"
  },
  "machine-config": {
    "vcpu_count": 0,
    "mem_size_mib": 0,
    "smt": true,
    "cpu_template": "T2",
    "track_dirty_pages": true
  },
  "drives": [{
    "drive_id": "a-b", "is_root_device": false, "path_on_host": "/nowhere/drive",
    "io_engine": "Async"
  }],
  "network-interfaces": [
    {"iface_id": "a", "host_dev_name": "t", "guest_mac": "06:00:00:00:00:01"},
    {"iface_id": "b",
     "host_dev_name": "a-name-too-long-for-it",
     "guest_mac": "01:00:00:00:00:01",
     "mtu": 1500},
    {"iface_id": "a",
     "host_dev_name": "t",
     "guest_mac": "06:00:00:00:00:01",
     "mtu": 1500}
  ],
  "logger": {"level": "Info",
             "log_path": "/nowhere/log"},
  "metrics": {"metrics_path": "/nowhere/metrics"},
  "balloon": {"amount_mib": 1, "deflate_on_oom": false}
}"#,
    );

    assert_begin(
        &mistakes,
        &[
            "3: boot-source.kernel_image_path: /nowhere/kernel",
            "4: boot-source.initrd_path: /nowhere/initrd",
            "5: boot-source.boot_args: must not have control characters",
            "8: machine-config.vcpu_count: must be 1 to 32",
            "9: machine-config.mem_size_mib: must be at least 1",
            "10: machine-config.smt: must be false",
            "11: machine-config.cpu_template: must be",
            "12: machine-config.track_dirty_pages: must be false",
            "15: drives[0].drive_id: must be",
            "15: drives[0].path_on_host: /nowhere/drive",
            "16: drives[0].io_engine: underlay has",
            "21: network-interfaces[1].host_dev_name: must be 1 to 15 bytes",
            "22: network-interfaces[1].guest_mac: must not be the address of a group",
            "23: network-interfaces[1].mtu: underlay does not tell the guest",
            "24: network-interfaces[2].iface_id: \"a\" is there twice",
            "27: network-interfaces[2].mtu: underlay does not tell the guest",
            "30: logger.log_path: /nowhere/log: No such file",
            "31: metrics.metrics_path: /nowhere/metrics: No such file",
        ],
    );
}

#[test]
fn what_cannot_be_read_hides_no_other_mistake() {
    let mistakes = Files::new().mistakes(
        r#"{
  "boot-source": {
    "kernel_image_path": 7,
    "initrd_path": "/nowhere/initrd"
  },
  "machine-config": {
    "vcpu_count": "2",
    "mem_size_mib": 64,
    "smt": true
  },
  "drives": [
    {"drive_id": "a", "is_root_device": 1, "path_on_host": "DRIVE"},
    {"drive_id": "b", "is_root_device": false, "path_on_host": "/nowhere/drive"},
    {"drive_id": "c", "is_root_device": false},
    7
  ]
}"#,
    );

    assert_begin(
        &mistakes,
        &[
            "3: boot-source.kernel_image_path: invalid type",
            "4: boot-source.initrd_path: /nowhere/initrd",
            "7: machine-config.vcpu_count: invalid type",
            "9: machine-config.smt: must be false",
            "12: drives[0].is_root_device: invalid type",
            "13: drives[1].path_on_host: /nowhere/drive",
            "14: drives[2].path_on_host: is needed",
            "15: drives[3]: invalid type",
        ],
    );
}

#[test]
fn values_are_held_against_the_document_and_not_against_what_stands_in_for_it() {
    let files = Files::new();
    let with = |machine: &str, drive: &str| {
        files.mistakes(&format!(
            r#"{{
  "boot-source": {{"kernel_image_path": "KERNEL"}},
  "machine-config": {{{machine}}},
  "drives": [{{"drive_id": "a", "is_root_device": false, {drive}}}],
  "balloon": {{"amount_mib": 2048, "deflate_on_oom": false}}
}}"#
        ))
    };
    let drive = r#""path_on_host": "DRIVE""#;

    assert_begin(
        &with(r#""vcpu_count": 64, "mem_size_mib": 4096"#, drive),
        &["3: machine-config.vcpu_count: must be 1 to 32"],
    );
    assert_begin(
        &with(r#""vcpu_count": 64, "mem_size_mib": 1024"#, drive),
        &[
            "3: machine-config.vcpu_count: must be 1 to 32",
            "5: balloon.amount_mib: is more than the guest's memory: 1024",
        ],
    );
    for (memory, reason) in [(r#""4096""#, "invalid type"), ("0", "must be at least 1")] {
        assert_begin(
            &with(&format!(r#""vcpu_count": 1, "mem_size_mib": {memory}"#), drive),
            &[&format!("3: machine-config.mem_size_mib: {reason}")],
        );
    }
    // A program that runs cannot be opened to be written to.
    let busy = std::env::current_exe().unwrap().display().to_string();
    assert_begin(
        &with(
            r#""vcpu_count": 1, "mem_size_mib": 4096"#,
            &format!(r#""path_on_host": "{busy}", "is_read_only": "true""#),
        ),
        &["4: drives[0].is_read_only: invalid type"],
    );
}

#[test]
fn a_document_that_is_no_json_is_told_where() {
    let files = Files::new();
    assert_begin(&files.mistakes("{\n  \"drives\": [,]\n}"), &["2: expected value"]);
    assert_begin(&files.mistakes(""), &["1: EOF while parsing a value"]);
    assert_begin(&files.mistakes("7"), &["1: invalid type: integer"]);
    assert_begin(&files.mistakes("{}"), &["1: boot-source: is needed"]);
    assert_begin(&files.mistakes("{} {}"), &["1: trailing characters"]);
}

#[test]
fn many_mistakes_have_an_end() {
    let fields: Vec<_> = (0..500).map(|number| format!("\"field{number}\": 1")).collect();

    let mistakes = Files::new().mistakes(&format!("{{{}}}", fields.join(",\n")));

    assert_eq!(mistakes.len(), 100);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = load(Path::new("/nowhere/config.json")).unwrap_err();
    assert!(matches!(error, ConfigFileError::Read { .. }));
    assert!(error.to_string().contains("/nowhere/config.json"));
}
