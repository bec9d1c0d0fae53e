//! What a measurement found, and the forms in which it is shown.

mod compare;
mod csv;
#[cfg(test)]
mod fixture;
mod format;
mod layout;
mod load;
mod managed;
mod ratio;
mod samples;
mod schema;
mod setup;
mod smaps;
mod startup;
mod stats;
mod table;

pub use compare::{
    COMPARISON_SCHEMA, Comparison, Figure, HostDifference, RunComparison, RunKey, Verdict, compare,
    write_comparison,
};
pub use csv::write_csv;
pub use load::{LoadError, load};
pub use managed::{Managed, ManagedSetup, StageTimes};
pub use ratio::Ratio;
pub use samples::{Touch, TouchWriter};
pub use schema::{
    Check, Host, HostFaults, KvmFaults, Latency, Mapped, Pool, Report, Run, SCHEMA, SLOW_NS, Skipped, Spread,
};
pub use setup::Setup;
pub use smaps::write_smaps;
pub use startup::{StartupReport, write_startup};
pub(crate) use stats::nanoseconds;
pub use stats::{median_index, ticks_to_ns};
pub use table::write_tables;
