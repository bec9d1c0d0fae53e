use std::fs;

use tempfile::TempDir;

use super::*;

fn file() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "x").unwrap();
    let path = path.display().to_string();
    (folder, path)
}

fn drive(id: &str, root: bool, path: &str) -> Drive {
    let json = format!(r#"{{"drive_id":"{id}","is_root_device":{root},"path_on_host":"{path}"}}"#);
    serde_json::from_str(&json).unwrap()
}

fn interface(id: &str, tap: &str, mac: &str) -> NetworkInterface {
    let json = format!(r#"{{"iface_id":"{id}","host_dev_name":"{tap}","guest_mac":"{mac}"}}"#);
    serde_json::from_str(&json).unwrap()
}

fn balloon(amount_mib: u32) -> Balloon {
    serde_json::from_str(&format!(r#"{{"amount_mib":{amount_mib},"deflate_on_oom":false}}"#)).unwrap()
}

#[track_caller]
fn field<E: Into<Refusals>>(result: Result<(), E>) -> &'static str {
    let refused: Refusals = result.map_err(Into::into).unwrap_err();
    refused.into_iter().next().unwrap().field
}

#[test]
fn the_root_device_is_first_and_there_is_one() {
    let (_folder, path) = file();
    let mut configuration = Configuration::default();
    configuration.set_drive(drive("a", false, &path)).unwrap();
    configuration.set_drive(drive("b", true, &path)).unwrap();
    configuration.set_drive(drive("c", false, &path)).unwrap();
    let ids = |configuration: &Configuration| {
        configuration.config().drives.iter().map(|drive| drive.drive_id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&configuration), ["b", "a", "c"]);

    assert_eq!(field(configuration.set_drive(drive("a", true, &path))), "is_root_device");
    assert_eq!(ids(&configuration), ["b", "a", "c"]);

    configuration.set_drive(drive("b", false, &path)).unwrap();
    configuration.set_drive(drive("c", true, &path)).unwrap();
    assert_eq!(ids(&configuration), ["c", "b", "a"]);
}

#[test]
fn interfaces_share_neither_tap_nor_address() {
    let mut configuration = Configuration::default();
    configuration.set_network_interface(interface("a", "tap0", "06:00:00:00:00:01")).unwrap();

    let same_tap = interface("b", "tap0", "06:00:00:00:00:02");
    assert_eq!(field(configuration.set_network_interface(same_tap)), "host_dev_name");
    let same_mac = interface("b", "tap1", "06:00:00:00:00:01");
    assert_eq!(field(configuration.set_network_interface(same_mac)), "guest_mac");

    // One may be replaced by itself.
    configuration.set_network_interface(interface("a", "tap0", "06:00:00:00:00:01")).unwrap();
    assert_eq!(configuration.config().network_interfaces.len(), 1);
}

#[test]
fn the_balloon_fits_into_memory_whichever_comes_first() {
    let mut configuration = Configuration::default();
    assert_eq!(field(configuration.set_balloon(balloon(129))), "amount_mib");
    configuration.set_balloon(balloon(128)).unwrap();

    let smaller = MachineConfigUpdate { mem_size_mib: Some(64), ..Default::default() };
    assert_eq!(field(configuration.update_machine_config(smaller)), "mem_size_mib");
    assert_eq!(field(configuration.update_machine_config(MachineConfigUpdate::default())), "vcpu_count");
    assert_eq!(configuration.config().machine_config, MachineConfig::default());
}

#[test]
fn files_are_looked_at_when_they_are_named() {
    let (folder, path) = file();
    let mut configuration = Configuration::default();
    let source = |kernel: &str, initrd: Option<&str>, args: &str| BootSource {
        kernel_image_path: kernel.into(),
        initrd_path: initrd.map(Into::into),
        boot_args: Some(args.to_owned()),
    };
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let fifo = fifo.display().to_string();

    assert_eq!(field(configuration.set_boot_source(source("/nowhere", None, ""))), "kernel_image_path");
    assert_eq!(field(configuration.set_boot_source(source(&fifo, None, ""))), "kernel_image_path");
    assert_eq!(field(configuration.set_boot_source(source(&path, Some("/nowhere"), ""))), "initrd_path");
    assert_eq!(field(configuration.set_boot_source(source(&path, None, &"a".repeat(2048)))), "boot_args");
    assert_eq!(field(configuration.set_boot_source(source(&path, None, "a\nb"))), "boot_args");
    assert_eq!(configuration.config().boot_source, None);
    configuration.set_boot_source(source(&path, Some(&path), &"a".repeat(2047))).unwrap();

    assert_eq!(field(configuration.set_drive(drive("a", false, "/nowhere"))), "path_on_host");
    assert_eq!(field(configuration.set_drive(drive("a", false, &fifo))), "path_on_host");
    assert_eq!(field(configuration.set_drive(drive("a-b", false, &path))), "drive_id");
}
