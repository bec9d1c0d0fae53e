//! The command line: what can be said, and nothing about whether this host can do it.

mod control;
mod devices;
mod run;

pub(crate) use control::ControlArgs;
use devices::DeviceArgs;
pub(crate) use run::RunArgs;

use std::{
    error::Error,
    num::{NonZeroU32, ParseIntError},
    path::PathBuf,
};

use clap::{Parser, Subcommand, ValueEnum};
use guest_mem::{BLOCK_SIZE, Backing, ByteSize, Stock};
use mmu_notifier::PAGE_SIZE;
use vmm::{
    driver::{Access, GuestPage},
    measure::{ParsePatternError, Pattern, parse_access},
};

/// A KVM microVM monitor whose guest RAM is run by a memory manager in user space.
#[derive(Debug, Parser)]
#[command(name = "underlay", version, max_term_width = 100)]
pub(crate) struct Args {
    /// Say more on stderr; twice for debugging
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Launch a microVM: boot a kernel on guest RAM of any backing
    Run(Box<RunArgs>),
    /// Let a real guest touch its RAM and measure every fault, on every backing that this host offers
    Measure(Box<MeasureArgs>),
    /// Show two results of `measure --json` side by side
    Compare(CompareArgs),
    /// Show what this host offers: KVM, second stage, backings, huge pages, userfaultfd, tracepoints
    Host(HostArgs),
    /// Measure the time from process start to the guest's first instruction, and the VMM's own memory
    Startup(StartupArgs),
}

#[derive(Debug, Parser)]
#[command(after_help = MEASURE_HELP)]
pub(crate) struct MeasureArgs {
    /// Backings to compare, separated by commas, so that a path holds none [default: all that this host offers]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) backing: Vec<Backing>,
    /// Guest RAM, such as 64M or 1G
    #[arg(long, value_name = "SIZE", default_value = "64M")]
    pub(crate) mem: ByteSize,
    /// What runs the guest: kvm, or model, a second stage in software that needs no KVM and no memory behind the frames
    #[arg(long, value_name = "ACCEL", value_enum, default_value = "kvm")]
    pub(crate) accel: AccelName,
    /// How many vCPUs touch it, each a part of its own
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_one)]
    pub(crate) vcpus: NonZeroU32,
    /// Let every vCPU touch all of it
    #[arg(long)]
    pub(crate) overlap: bool,
    /// How a word is touched: write, read or read-write
    #[arg(long, value_name = "ACCESS", default_value = "write", value_parser = parse_access)]
    pub(crate) access: Access,
    /// In which order: sequential, random (a permutation: each page is touched first exactly once) or stride:BYTES
    #[arg(long, value_name = "PATTERN", default_value = "sequential", value_parser = parse_pattern)]
    pub(crate) pattern: Pattern,
    /// The pages with which the guest maps its RAM: 4k, 2m or 1g
    #[arg(long, value_name = "SIZE", default_value = "2m")]
    pub(crate) guest_page: GuestPage,
    /// Samples of each backing, each on a new VM, after one warm-up that is not counted
    #[arg(long, value_name = "N", default_value = "5", value_parser = at_least_one)]
    pub(crate) samples: NonZeroU32,
    /// Populate the host's pages, in parallel, before the guest runs; those of file:PATH for reading only, so that the
    /// guest's first write to each still copies it
    #[arg(long)]
    pub(crate) prefault: bool,
    /// The host's CPUs for the vCPU threads, in turn, such as 0,1
    #[arg(long, value_name = "CPUS", value_delimiter = ',')]
    pub(crate) pin: Vec<usize>,
    /// Take guest RAM from this NUMA node only
    #[arg(long, value_name = "NODE")]
    pub(crate) numa_node: Option<u32>,
    #[command(flatten)]
    pub(crate) managed: ManagedArgs,
    /// Selects the random order
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) seed: u64,
    /// Write the result as JSON, schema 1; `-` writes it to stdout instead of the tables
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write one line for each backing as CSV
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Write what each managed backing's memory looked like after its median sample, by VMA: size, resident, mapped huge,
    /// proportional share (PSS), faults by reason; in the manner of /proc/PID/smaps. As JSON it is in --json
    #[arg(long, value_name = "FILE")]
    pub(crate) smaps: Option<PathBuf>,
    /// Write every touch of the counted samples as CSV: backing, sample, vCPU, pass, order, GPA, nanoseconds. All of them
    /// when the measurement is done, or none: for a pipe they are kept in a temporary file ($TMPDIR) until then
    #[arg(long, value_name = "FILE")]
    pub(crate) samples_out: Option<PathBuf>,
}

/// What runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AccelName {
    Kvm,
    Model,
}

/// How the backings that are called `managed` are run; of no meaning for others.
#[derive(Debug, Parser)]
#[command(next_help_heading = "Managed backings")]
pub(crate) struct ManagedArgs {
    #[command(flatten)]
    pub(crate) faults: FaultArgs,
    /// What is zeroed ahead of the guest: all of its RAM, none of it (each fault zeroes its own), or so many blocks of
    /// 2 MiB. The guest starts when that is done: it is not in the wall time, but in the CPU time
    #[arg(long, value_name = "STOCK", default_value = "all", value_parser = parse_stock)]
    pub(crate) stock: Stock,
}

/// How the faults of such a backing are resolved.
#[derive(Debug, Parser)]
pub(crate) struct FaultArgs {
    /// The aligned window that is mapped around a fault on a 4 KiB page, powers of two from 4K to 2M: LEAST..MOST grows
    /// while faults come in order, BYTES is fixed, off is the page alone
    #[arg(long, value_name = "BYTES", default_value = "64K..2M", value_parser = parse_window)]
    pub(crate) fault_around: Window,
    /// How many 2 MiB pages in a row a fault maps, as far as those behind the first are zeroed ahead: LEAST..MOST, N, or
    /// off for the page alone
    #[arg(long, value_name = "N", default_value = "4..16", value_parser = parse_row)]
    pub(crate) fault_around_huge: Window,
    /// Threads that resolve faults
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_one)]
    pub(crate) handlers: NonZeroU32,
    /// What these do while there is no fault: sleep, or spin (for 1 ms, then sleep), which is faster and takes a CPU
    #[arg(long, value_name = "HOW", default_value = "sleep")]
    pub(crate) handler_wait: HandlerWait,
    /// Bind them to this CPU of the host
    #[arg(long, value_name = "CPU")]
    pub(crate) handler_cpu: Option<usize>,
}

/// How much a fault maps: the least, and what it grows to while faults come in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) least: u64,
    pub(crate) most: u64,
}

/// What a fault handler does while there is no fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HandlerWait {
    /// It sleeps.
    Sleep,
    /// It asks again and again.
    Spin,
}

#[derive(Debug, Parser)]
pub(crate) struct CompareArgs {
    /// The result to compare with
    #[arg(value_name = "A.json")]
    pub(crate) a: PathBuf,
    /// The result that is compared: ratios are B to A
    #[arg(value_name = "B.json")]
    pub(crate) b: PathBuf,
    /// Print the comparison as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct HostArgs {
    /// For how much guest RAM the backings are judged
    #[arg(long, value_name = "SIZE", default_value = "64M")]
    pub(crate) mem: ByteSize,
    /// Print the survey as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct StartupArgs {
    /// What backs guest RAM
    #[arg(long, value_name = "BACKING", default_value = "anonymous")]
    pub(crate) backing: Backing,
    /// Guest RAM
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    pub(crate) mem: ByteSize,
    /// How many processes are started, one after the other
    #[arg(long, value_name = "N", default_value = "21", value_parser = at_least_one)]
    pub(crate) samples: NonZeroU32,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// One of those processes: started at this time of CLOCK_MONOTONIC, in nanoseconds
    #[arg(long, hide = true, value_name = "NS")]
    pub(crate) child: Option<u64>,
}

const MEASURE_HELP: &str = "\
Backings: anonymous (4 KiB pages), anonymous_thp, anonymous_hugetlb_2mb, anonymous_hugetlb_1gb, shmem, shmem_thp,
shared_hugetlb_2mb, shared_hugetlb_1gb, file:PATH (private), guest_memfd: the kernel resolves their faults. managed_4kb,
managed_2mb: underlay does, and each is shown beside the kernel's backing of the same pages. What the host lacks is
listed with the command that enables it; a backing that was asked for by name and is missing is an error.

Touches are what the guest did, faults are what KVM took: one fault may serve many touches, and a touch may take none.

Exit codes: 0 done, 1 the host failed, 2 the command line is wrong, 130 interrupted (SIGINT), 143 terminated (SIGTERM).";

/// Reads a count of which none makes no sense.
fn at_least_one(text: &str) -> Result<NonZeroU32, String> {
    let number: u32 = text.parse().map_err(|error: ParseIntError| error.to_string())?;
    NonZeroU32::new(number).ok_or_else(|| "must be at least 1".to_owned())
}

/// Reads a pattern; the message has the cause, which clap would leave out.
fn parse_pattern(text: &str) -> Result<Pattern, String> {
    text.parse().map_err(|error: ParsePatternError| match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })
}

/// Reads a window in bytes.
fn parse_window(text: &str) -> Result<Window, String> {
    parse_range(text, PAGE_SIZE, |text| {
        let bytes = text.parse::<ByteSize>().map_err(|error| error.to_string())?.bytes();
        let fits = bytes.is_power_of_two() && (PAGE_SIZE..=BLOCK_SIZE).contains(&bytes);
        fits.then_some(bytes).ok_or_else(|| "must be a power of two from 4K to 2M, or off".to_owned())
    })
}

/// Reads how many pages in a row.
fn parse_row(text: &str) -> Result<Window, String> {
    parse_range(text, 1, |text| at_least_one(text).map(|pages| pages.get().into()))
}

/// Reads `LEAST..MOST`, or both as one, or `off`.
fn parse_range(text: &str, off: u64, read: impl Fn(&str) -> Result<u64, String>) -> Result<Window, String> {
    if text == "off" {
        return Ok(Window { least: off, most: off });
    }
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let window = Window { least: read(least)?, most: read(most)? };
    if window.least <= window.most { Ok(window) } else { Err(format!("{least} is more than {most}")) }
}

/// Reads how much is zeroed ahead.
fn parse_stock(text: &str) -> Result<Stock, String> {
    match text {
        "all" => Ok(Stock::All),
        "none" | "0" => Ok(Stock::None),
        blocks => blocks
            .parse()
            .map(Stock::Blocks)
            .map_err(|_| "must be all, none or a number of blocks".to_owned()),
    }
}
