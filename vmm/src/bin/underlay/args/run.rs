//! `underlay run` on the command line.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};
use guest_mem::{Backing, ByteSize, Stock};
use vmm::{
    boot::{DEFAULT_COMMAND_LINE, Protocol},
    kvm::CpuFeature,
};

use super::{ControlArgs, DeviceArgs, FaultArgs, at_least_one, parse_stock};

#[derive(Debug, Parser)]
#[command(after_help = HELP, version = VERSION)]
pub(crate) struct RunArgs {
    /// The kernel: a vmlinux (ELF) or a bzImage, such as /boot/vmlinuz
    #[arg(long, value_name = "FILE", required_unless_present_any = ["config_file", "api_sock"])]
    pub(crate) kernel: Option<PathBuf>,
    /// What the kernel unpacks into its first root file system
    #[arg(long, value_name = "FILE", requires = "kernel", conflicts_with = "config_file")]
    pub(crate) initrd: Option<PathBuf>,
    /// The kernel's command line, in place of this one; what tells the kernel of its devices is added to it
    #[arg(long, value_name = "TEXT", default_value = DEFAULT_COMMAND_LINE, requires = "kernel", conflicts_with = "config_file")]
    pub(crate) cmdline: String,
    /// How the kernel is entered. auto: a vmlinux at its 64-bit entry; of a bzImage the vmlinux in it, unpacked by underlay
    /// (gzip, xz, lzma, zstd, lz4; else as linux64), which is fast everywhere, but the kernel then lies at no random address
    /// (KASLR). linux64: a bzImage unpacks itself. pvh: a vmlinux, also one in a bzImage, that has such an entry
    #[arg(long, value_name = "PROTOCOL", value_enum, default_value = "auto")]
    pub(crate) protocol: ProtocolName,
    /// Guest RAM, such as 128M or 4G; what is beyond 3G lies above 4G for the guest
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "256M",
        requires = "kernel",
        conflicts_with = "config_file"
    )]
    pub(crate) mem: ByteSize,
    /// What backs guest RAM, where a configuration file or the API asks for no backing and no huge pages
    #[arg(long, value_name = "BACKING", default_value = "anonymous")]
    pub(crate) backing: Backing,
    /// Populate guest RAM before the guest runs
    #[arg(long)]
    pub(crate) prefault: bool,
    /// Take guest RAM from this NUMA node only
    #[arg(long, value_name = "NODE")]
    pub(crate) numa_node: Option<u32>,
    /// How many vCPUs
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_one, requires = "kernel", conflicts_with = "config_file")]
    pub(crate) vcpus: NonZeroU32,
    /// CPU features that the guest is not to see, by their names in /proc/cpuinfo, separated by commas. Where KVM shows one
    /// all the same, a warning says so
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) mask_cpu: Vec<CpuFeature>,
    /// Say on stderr where each vCPU is when the guest has written nothing to its console for so long, and again after as
    /// long
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) watchdog: Option<Duration>,
    #[command(flatten)]
    pub(crate) devices: DeviceArgs,
    #[command(flatten)]
    pub(crate) control: ControlArgs,
    #[command(flatten, next_help_heading = "Managed backings")]
    pub(crate) faults: FaultArgs,
    /// What is kept zeroed ahead of the guest: so many blocks of 2 MiB, all of its RAM, or none (each fault zeroes its own)
    #[arg(long, value_name = "STOCK", default_value = "8", value_parser = parse_stock)]
    pub(crate) stock: Stock,
}

/// Programs that start Firecracker look for its name and version in what they are told.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), ", with the API of Firecracker v1.17.0");

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProtocolName {
    Auto,
    Linux64,
    Pvh,
}

impl From<ProtocolName> for Protocol {
    fn from(name: ProtocolName) -> Self {
        match name {
            ProtocolName::Auto => Self::Auto,
            ProtocolName::Linux64 => Self::Linux64,
            ProtocolName::Pvh => Self::Pvh,
        }
    }
}

const HELP: &str = "\
Backings: see `underlay host`. anonymous, shmem, guest_memfd and others have the kernel resolve the guest's faults;
managed_4kb, managed_2mb and managed_thp have underlay do it.

The guest's first serial port is its console, on stdin and stdout. A terminal is the guest's until it ends: Ctrl-A x ends
the guest, Ctrl-A Ctrl-A is one Ctrl-A. A guest ends when it resets its CPU, which Linux does when it reboots with
reboot=k; one that writes a byte to port 0x501 ends with that as the exit code.

Exit codes: the guest's own, or 0 after a reset or Ctrl-A x; 1 the guest or the host failed, 2 the command line or a file
that it names is wrong, 130 interrupted (SIGINT), 143 terminated (SIGTERM).";

/// Reads a duration in seconds of which none makes no sense.
fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "must be a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("must be more than 0 seconds".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_api() {
        assert!(VERSION.ends_with(&format!("Firecracker v{}", vmm::api::FIRECRACKER_VERSION)));
    }
}
