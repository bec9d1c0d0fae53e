//! The bodies of requests and answers, one file a resource: Firecracker's names, defaults and limits, and what is ours
//! beside them.
//!
//! A type's `check` says what is wrong with a well-formed value by itself; what depends on other resources is looked at
//! by the [configuration](super::Configuration).

mod action;
mod balloon;
mod boot_source;
mod drive;
mod entropy;
mod instance;
mod lacking;
mod logger;
mod machine_config;
mod memory;
mod metrics;
mod network_interface;
mod rate_limiter;
mod refused;
mod vm;

pub use action::{Action, ActionType};
pub use balloon::{
    Balloon, BalloonHintingStart, BalloonHintingStatus, BalloonStatistics, BalloonStatisticsUpdate,
    BalloonUpdate, GuestStatistics,
};
pub use boot_source::{BootSource, DEFAULT_BOOT_ARGS};
pub use drive::{CacheType, Drive, DriveUpdate, IoEngine};
pub use entropy::Entropy;
pub use instance::{InstanceId, InstanceInfo, InvalidInstanceId, Version};
pub use lacking::Lacking;
pub use logger::{Level, Logger};
pub use machine_config::{HugePages, MachineConfig, MachineConfigUpdate};
pub use memory::{
    Discarded, FaultLatency, HugePolicyName, MemoryPolicy, MemoryRange, MemoryReport, VmaUsage,
};
pub use metrics::MetricsConfig;
pub use network_interface::{InvalidMacAddress, MacAddress, NetworkInterface, NetworkInterfaceUpdate};
pub use rate_limiter::{RateLimiter, TokenBucket};
pub use refused::{Refusals, Refused};
pub use vm::{Vm, VmChange, VmState};

use std::{fs, path::Path};

use crate::append::AppendFile;

/// Whether `id` names a drive or an interface: letters, digits and `_`.
fn check_id(field: &'static str, id: &str) -> Result<(), Refused> {
    let fits = !id.is_empty() && id.chars().all(|c| c == '_' || c.is_alphanumeric());
    if fits {
        Ok(())
    } else {
        Err(Refused::new(field, "must be one or more letters, digits and underscores"))
    }
}

/// Whether lines can be appended to the file at `path`.
fn check_appendable(field: &'static str, path: &Path) -> Result<(), Refused> {
    AppendFile::check(path).map_err(|error| Refused::new(field, format!("{}: {error}", path.display())))
}

/// Whether there is a file at `path` that this process may read; a FIFO is never opened, which would wait for a writer.
fn check_file(field: &'static str, path: &Path) -> Result<(), Refused> {
    let refused = |reason: String| Refused::new(field, format!("{}: {reason}", path.display()));
    let metadata = fs::metadata(path).map_err(|error| refused(error.to_string()))?;
    if !metadata.is_file() {
        return Err(refused("is not a regular file".to_owned()));
    }
    fs::File::open(path).map(drop).map_err(|error| refused(error.to_string()))
}
