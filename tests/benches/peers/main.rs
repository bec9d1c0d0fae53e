//! underlay beside the VMMs that do the same job, as far as they are installed: starting, booting Linux, reading a disk,
//! and what the monitor itself takes of memory. Samples take turns; figures are medians, ratios are to the first row.
//!
//! `cargo bench -p underlay-tests --bench peers [-- start|boot|disk|size ...]`
//!
//! qemu-system-x86_64 (Debian: qemu-system-x86) and firecracker are looked for on the PATH. Booting needs
//! `resources/kernel/build.sh` and `resources/initrd/build.sh` to have been run, and a tap device needs root.

mod monitor;
mod resident;
mod running;
mod table;

use std::{error::Error, fs, path::Path, time::Duration};

use nix::unistd::geteuid;
use underlay_tests::{Linux, TAP, in_own_network, tiny_pvh_kernel};

use monitor::{Guest, Monitor};
use running::Running;
use table::Table;

type Outcome = Result<(), Box<dyn Error>>;
/// What compares these VMMs, with a folder for its files.
type Part = fn(&[Monitor], &Path) -> Outcome;

const MIB: u64 = 1 << 20;
/// What the guest reads: a MiB of requests takes tenths of a second where KVM emulates its kernel.
const DISK_MIB: u64 = 16;
/// Writes `x` to the serial port, and halts: 16 bytes, the same in 32-bit and in 64-bit mode.
const ONE_BYTE: [u8; 16] = *b"\xb0x\x66\xba\xf8\x03\xee\xf4\xeb\xfd\x90\x90\x90\x90\x90\x90";

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo builds benches to test them too: then there is nothing to do.
    if arguments.iter().any(|argument| argument == "--test") {
        return Ok(());
    }
    let monitors = Monitor::installed();
    for absent in Monitor::ALL.iter().filter(|monitor| !monitors.contains(monitor)) {
        println!("{}: not installed", absent.name());
    }
    let folder = tempfile::tempdir()?;
    let parts: [(&str, Part); 4] = [("start", start), ("size", size), ("boot", boot), ("disk", disk)];
    let wanted = |name: &str| {
        let mut names = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
        names.peek().is_none() || names.any(|argument| argument == name)
    };
    for (_, part) in parts.into_iter().filter(|(name, _)| wanted(name)) {
        println!();
        part(&monitors, folder.path())?;
    }
    Ok(())
}

/// From asking for the process to the first byte that its guest writes.
fn start(monitors: &[Monitor], folder: &Path) -> Outcome {
    let kernel = one_byte_kernel(folder)?;
    let mut table = Table::new("process start to the guest's first byte", "ms", monitors);
    for _ in 0..=20 {
        for &monitor in monitors {
            let running = Running::start(monitor, &Guest::new(&kernel, 128), folder)?;
            table.add(monitor, millis(running.until("x")?.0));
        }
    }
    table.print();
    Ok(())
}

/// What is resident of the monitor, with a disk and a network interface and without its guest's memory.
fn size(monitors: &[Monitor], folder: &Path) -> Outcome {
    if !geteuid().is_root() {
        println!("resident: skipped, a tap device needs root");
        return Ok(());
    }
    let (monitors, folder) = (monitors.to_owned(), folder.to_owned());
    // Errors that may be of any kind stay on their thread.
    let measured = move || size_with_tap(&monitors, &folder).map_err(|error| error.to_string());
    Ok(in_own_network(measured)?)
}

fn size_with_tap(monitors: &[Monitor], folder: &Path) -> Outcome {
    let kernel = one_byte_kernel(folder)?;
    let image = disk_image(folder, MIB)?;
    let mut table = Table::new("resident without the guest's memory, disk and net attached", "MiB", monitors);
    let mut where_it_goes = Vec::new();
    for round in 0..=5 {
        for &monitor in monitors {
            let guest = Guest { disk: Some(&image), tap: Some(TAP), ..Guest::new(&kernel, 128) };
            let running = Running::start(monitor, &guest, folder)?;
            let (_, running) = running.until("x")?;
            // Threads that were just started get on with what they do first.
            std::thread::sleep(Duration::from_millis(200));
            let (all, by_mapping) = resident::of(running.pid(), 128 * MIB)?;
            table.add(monitor, resident::mib(all));
            if round == 0 {
                where_it_goes.push((monitor, by_mapping));
            }
        }
    }
    table.print();
    for (monitor, by_mapping) in where_it_goes {
        println!("{}: {}", monitor.name(), resident::list(&by_mapping));
    }
    Ok(())
}

/// From asking for the process to the first line of the init, with the same kernel, initrd and command line.
fn boot(monitors: &[Monitor], folder: &Path) -> Outcome {
    let linux = Linux::built()?;
    let mut table = Table::new("process start to /init of the test kernel", "ms", monitors);
    for _ in 0..=3 {
        for &monitor in monitors {
            let line = linux.line_for("boot");
            let running = Running::start(monitor, &Guest::linux(&linux, &line), folder)?;
            table.add(monitor, millis(running.until("init: start")?.0));
        }
    }
    table.print();
    Ok(())
}

/// What a guest reads in order from a disk whose image is in the host's page cache.
#[expect(clippy::cast_precision_loss, reason = "MiB of a small disk")]
fn disk(monitors: &[Monitor], folder: &Path) -> Outcome {
    let linux = Linux::built()?;
    let image = disk_image(folder, DISK_MIB * MIB)?;
    let mut table = Table::new("sequential read, virtio-blk, 1 MiB at a time", "us per MiB", monitors);
    for _ in 0..=3 {
        for &monitor in monitors {
            let line = linux.line_for("disk-throughput");
            let guest = Guest { disk: Some(&image), ..Guest::linux(&linux, &line) };
            let running = Running::start(monitor, &guest, folder)?;
            let (_, running) = running.until("init: disk-throughput pass=2 bytes=")?;
            // The rest of that line, up to the next one.
            let (_, running) = running.until("init: ")?;
            table.add(
                monitor,
                running.last_figure("us=").ok_or("the guest said no figure")? / DISK_MIB as f64,
            );
        }
    }
    table.print();
    Ok(())
}

fn one_byte_kernel(folder: &Path) -> std::io::Result<std::path::PathBuf> {
    let path = folder.join("one-byte");
    fs::write(&path, tiny_pvh_kernel(&ONE_BYTE))?;
    Ok(path)
}

/// An image with something in each of its blocks, all of it in the page cache.
fn disk_image(folder: &Path, bytes: u64) -> std::io::Result<std::path::PathBuf> {
    let path = folder.join("disk");
    let contents: Vec<u8> = (0..bytes / 8).flat_map(u64::to_le_bytes).collect();
    fs::write(&path, contents)?;
    Ok(path)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
