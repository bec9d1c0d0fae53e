//! `underlay measure`: what it costs to touch guest memory for the first time, on every backing.

mod accel;
mod checks;
mod clock;
mod cpu;
mod managed;
mod modelled;
mod offset;
mod pass;
mod plan;
mod run;
mod sample;
mod session;
mod stages;

pub use accel::Accel;
pub use checks::{check_model_sample, check_sample, combine};
pub use clock::Timer;
pub use managed::ManagedSample;
pub use modelled::ModelError;
pub use pass::{Pass, histogram};
pub use plan::{
    ParseAccessError, ParsePatternError, Pattern, Plan, PlanError, Share, access_name, default_backings,
    parse_access,
};
pub use run::{MeasureError, Measurement, Progress, measure};
pub use sample::{Sample, SampleError, TouchSink};
pub use stages::Stages;

use clock::Clock;
