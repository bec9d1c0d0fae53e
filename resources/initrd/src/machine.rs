//! The machine as Linux shows it: what to mount, what to report, and how it ends.

use core::time::Duration;

use rustix::fs::{self, Mode, OFlags};
use rustix::io;
use rustix::mount::{self, MountFlags};
use rustix::system::{self, RebootCommand};
use rustix::thread::{self, CpuSet};
use rustix::time::{self, ClockId};

use crate::console::say;
use crate::outcome::Failure;

/// A byte written here ends the VM with that status, where the VMM has such a port.
const EXIT_PORT: u64 = 0x501;

/// Mounts /proc, /sys and /dev, whose directories the initrd has.
pub(crate) fn mount_all() -> Result<(), Failure> {
    for (kind, at) in [(c"proc", c"/proc"), (c"sysfs", c"/sys"), (c"devtmpfs", c"/dev")] {
        mount::mount(kind, at, kind, MountFlags::empty(), None).map_err(Failure::refused("mount"))?;
    }
    Ok(())
}

/// Says what the guest got: processors, memory, time since the kernel's start.
pub(crate) fn report() {
    let mut text = [0; 4096];
    let total = read_text(c"/proc/meminfo", &mut text).ok().and_then(|text| field(text, "MemTotal:"));
    say!("up cpus={} mem_kib={} uptime_ms={}", cpus(), total.unwrap_or(0), now().as_millis());
}

/// Ends the VM: by the debug exit port, else by the keyboard controller's reset (`reboot=k`).
pub(crate) fn power_off(status: u8) -> ! {
    fs::sync();
    if let Ok(ports) = open(c"/dev/port", OFlags::WRONLY) {
        let _ = io::pwrite(&ports, &[status], EXIT_PORT);
    }
    // Only a VMM without the port gets here.
    loop {
        let _ = system::reboot(RebootCommand::Restart);
    }
}

/// Processors that this process may run on.
pub(crate) fn cpus() -> usize {
    thread::sched_getaffinity(None).map_or(1, |set: CpuSet| set.count() as usize)
}

/// Time since the guest's kernel started.
pub(crate) fn now() -> Duration {
    Duration::try_from(time::clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}

/// Opens what exists.
pub(crate) fn open(path: &core::ffi::CStr, how: OFlags) -> io::Result<rustix::fd::OwnedFd> {
    fs::open(path, how | OFlags::CLOEXEC, Mode::empty())
}

/// Writes `text` to a file of /proc or /sys.
pub(crate) fn set(path: &core::ffi::CStr, text: &str) -> io::Result<()> {
    io::write(open(path, OFlags::WRONLY)?, text.as_bytes()).map(drop)
}

/// The file's text, as far as it fits into `buffer`.
pub(crate) fn read_text<'a>(path: &core::ffi::CStr, buffer: &'a mut [u8]) -> io::Result<&'a str> {
    let file = open(path, OFlags::RDONLY)?;
    let mut used = 0;
    while used < buffer.len() {
        match io::read(&file, &mut buffer[used..])? {
            0 => break,
            done => used += done,
        }
    }
    Ok(core::str::from_utf8(&buffer[..used]).unwrap_or_default().trim_end())
}

/// The number after `name` in a file like /proc/meminfo.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}
