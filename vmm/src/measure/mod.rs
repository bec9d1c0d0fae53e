//! `underlay measure`: what it costs to touch guest memory for the first time, on every backing.

mod checks;
mod clock;
mod pass;
mod plan;
mod run;
mod sample;

pub use checks::{check_sample, combine};
pub use clock::Timer;
pub use pass::{Pass, histogram};
pub use plan::{
    ParseAccessError, ParsePatternError, Pattern, Plan, PlanError, Share, access_name, default_backings,
    parse_access,
};
pub use run::{MeasureError, Measurement, Progress, measure};
pub use sample::{Sample, SampleError, TouchSink};

use clock::Clock;
