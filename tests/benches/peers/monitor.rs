//! The VMMs, and how each of them is told of the same guest.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use underlay_tests::{Linux, underlay_path};

/// A VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Monitor {
    Underlay,
    Firecracker,
    Qemu,
}

/// What a guest is to be, with one vCPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initrd: Option<&'a Path>,
    pub(crate) command_line: &'a str,
    /// MiB of RAM.
    pub(crate) ram: u64,
    pub(crate) disk: Option<&'a Path>,
    pub(crate) tap: Option<&'a str>,
}

impl<'a> Guest<'a> {
    pub(crate) fn new(kernel: &'a Path, ram: u64) -> Self {
        Self { kernel, initrd: None, command_line: "", ram, disk: None, tap: None }
    }

    pub(crate) fn linux(linux: &'a Linux, command_line: &'a str) -> Self {
        Self { initrd: Some(&linux.initrd), command_line, ..Self::new(&linux.kernel, 64) }
    }
}

impl Monitor {
    pub(crate) const ALL: [Self; 3] = [Self::Underlay, Self::Firecracker, Self::Qemu];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Underlay => "underlay",
            Self::Firecracker => "firecracker",
            Self::Qemu => "qemu -M microvm",
        }
    }

    /// Those that are here; this one is first.
    pub(crate) fn installed() -> Vec<Self> {
        Self::ALL.into_iter().filter(|monitor| monitor.is_installed()).collect()
    }

    fn is_installed(self) -> bool {
        let version = Command::new(self.program()).arg("--version").stdout(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    }

    fn program(self) -> PathBuf {
        match self {
            Self::Underlay => underlay_path().to_owned(),
            Self::Firecracker => "firecracker".into(),
            Self::Qemu => "qemu-system-x86_64".into(),
        }
    }

    /// What starts it with `guest`, whose serial port is its stdout; files that it needs are in `folder`.
    pub(crate) fn command(self, guest: &Guest<'_>, folder: &Path) -> io::Result<Command> {
        let mut command = Command::new(self.program());
        match self {
            Self::Underlay => for_underlay(&mut command, guest),
            Self::Firecracker => {
                let file = folder.join("firecracker.json");
                fs::write(&file, for_firecracker(guest).to_string())?;
                command.args(["--no-api", "--config-file"]).arg(file);
            }
            Self::Qemu => for_qemu(&mut command, guest),
        }
        Ok(command)
    }
}

fn for_underlay(command: &mut Command, guest: &Guest<'_>) {
    command.args(["run", "--mem", &format!("{}M", guest.ram), "--kernel"]).arg(guest.kernel);
    if let Some(initrd) = guest.initrd {
        command.arg("--initrd").arg(initrd).args(["--cmdline", guest.command_line]);
    }
    if let Some(disk) = guest.disk {
        command.arg("--disk").arg(disk);
    }
    if let Some(tap) = guest.tap {
        command.args(["--net", &format!("tap={tap}")]);
    }
}

/// Without what it need not have: graphics, default devices, and ACPI, which would hide its devices from a kernel that has
/// none. Its default CPU is one that Linux works around in ways that not every KVM emulates; the host's is what the others
/// have, less an MSR that not every KVM lets it set.
fn for_qemu(command: &mut Command, guest: &Guest<'_>) {
    command.args(["-M", "microvm,acpi=off", "-accel", "kvm", "-cpu", "host,arch-capabilities=off"]);
    command.args(["-nodefaults", "-no-user-config"]);
    command.args(["-display", "none", "-serial", "stdio", "-no-reboot", "-m", &guest.ram.to_string()]);
    command.arg("-kernel").arg(guest.kernel);
    if let Some(initrd) = guest.initrd {
        command.arg("-initrd").arg(initrd).args(["-append", guest.command_line]);
    }
    if let Some(disk) = guest.disk {
        command.args(["-device", "virtio-blk-device,drive=disk", "-drive"]);
        command.arg(format!("id=disk,if=none,format=raw,file={}", disk.display()));
    }
    if let Some(tap) = guest.tap {
        command.args(["-device", "virtio-net-device,netdev=net", "-netdev"]);
        command.arg(format!("tap,id=net,script=no,downscript=no,ifname={tap}"));
    }
}

fn for_firecracker(guest: &Guest<'_>) -> Value {
    let drive = |path: &Path| json!({ "drive_id": "disk", "path_on_host": path, "is_root_device": false, "is_read_only": false });
    let interface = |tap: &str| json!({ "iface_id": "net", "host_dev_name": tap });
    json!({
        "boot-source": {
            "kernel_image_path": guest.kernel,
            "initrd_path": guest.initrd,
            "boot_args": guest.command_line,
        },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": guest.ram },
        "drives": guest.disk.map(drive).into_iter().collect::<Vec<_>>(),
        "network-interfaces": guest.tap.map(interface).into_iter().collect::<Vec<_>>(),
    })
}
