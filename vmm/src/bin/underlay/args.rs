//! The command line: what can be said, and nothing about whether this host can do it.

use std::{
    error::Error,
    num::{NonZeroU32, ParseIntError},
    path::PathBuf,
};

use clap::{Parser, Subcommand};
use guest_mem::{Backing, ByteSize};
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
    /// Let a real guest touch its RAM and measure every fault, on every backing that this host offers
    Measure(MeasureArgs),
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
    /// Selects the random order
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) seed: u64,
    /// Write the result as JSON, schema 1; `-` writes it to stdout instead of the tables
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write one line for each backing as CSV
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Write every touch of the counted samples as CSV: backing, sample, vCPU, pass, order, GPA, nanoseconds. All of them
    /// when the measurement is done, or none: for a pipe they are kept in a temporary file ($TMPDIR) until then
    #[arg(long, value_name = "FILE")]
    pub(crate) samples_out: Option<PathBuf>,
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
shared_hugetlb_2mb, shared_hugetlb_1gb, file:PATH (private), guest_memfd. What the host lacks is listed with the command
that enables it; a backing that was asked for by name and is missing is an error.

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
