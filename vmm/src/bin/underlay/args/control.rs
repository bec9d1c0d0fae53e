//! How a microVM is configured and controlled by others: Firecracker's own options, by their names.

use std::path::PathBuf;

use clap::Parser;
use vmm::api::{
    LONGEST_BODY,
    schema::{InstanceId, Level},
};

#[derive(Debug, Parser)]
#[command(next_help_heading = "Control, as Firecracker has it")]
pub(crate) struct ControlArgs {
    /// Serve Firecracker's API v1 (HTTP) on this Unix socket. Without --kernel and --config-file, what is to run is
    /// configured and started there
    #[arg(long, value_name = "PATH")]
    pub(crate) api_sock: Option<PathBuf>,
    /// Configure the microVM by this file of JSON, as Firecracker reads it, and start it
    #[arg(long, value_name = "FILE", conflicts_with = "kernel")]
    pub(crate) config_file: Option<PathBuf>,
    /// Serve no API, whatever --api-sock says
    #[arg(long)]
    pub(crate) no_api: bool,
    /// What the microVM is called: 1 to 64 letters, digits and dashes
    #[arg(long, value_name = "ID", default_value_t)]
    pub(crate) id: InstanceId,
    /// Append the log to this file or FIFO rather than write it to stderr
    #[arg(long, value_name = "FILE")]
    pub(crate) log_path: Option<PathBuf>,
    /// The least that is logged: Off, Error, Warning, Info, Debug or Trace [default: Warning, and more with each -v]
    #[arg(long, visible_alias = "log-level", value_name = "LEVEL")]
    pub(crate) level: Option<Level>,
    /// Log what this module and its submodules say, and nothing else
    #[arg(long, value_name = "MODULE")]
    pub(crate) module: Option<String>,
    /// Have the level in each line of the log
    #[arg(long)]
    pub(crate) show_level: bool,
    /// Have the file and the line of the source in each line of the log
    #[arg(long)]
    pub(crate) show_log_origin: bool,
    /// Append metrics to this file or FIFO: a line of JSON every minute, on FlushMetrics, and at the end
    #[arg(long, visible_alias = "metrics", value_name = "FILE")]
    pub(crate) metrics_path: Option<PathBuf>,
    /// The longest body that the API takes, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = LONGEST_BODY)]
    pub(crate) http_api_max_payload_size: usize,
    #[command(flatten)]
    meaningless: MeaninglessArgs,
}

/// Options that programs pass to Firecracker and that mean nothing here.
#[derive(Debug, Parser)]
#[command(next_help_heading = "Taken from programs that start Firecracker, and of no effect")]
struct MeaninglessArgs {
    /// There is no device that tells how long booting took
    #[arg(long)]
    boot_timer: bool,
    /// There is no system-call filter
    #[arg(long)]
    no_seccomp: bool,
    /// There is none to be replaced by the one in this file
    #[arg(long, value_name = "FILE")]
    seccomp_filter: Option<PathBuf>,
    /// Devices are on MMIO
    #[arg(long)]
    enable_pci: bool,
    /// There is no metadata service
    #[arg(long, value_name = "BYTES")]
    mmds_size_limit: Option<u64>,
    /// When the process was started
    #[arg(long, value_name = "US")]
    start_time_us: Option<u64>,
    /// When the process was started, in its processor time
    #[arg(long, value_name = "US")]
    start_time_cpu_us: Option<u64>,
    /// The processor time of its parent until then
    #[arg(long, value_name = "US")]
    parent_cpu_time_us: Option<u64>,
}
