//! What runs the guest and translates its addresses.

use std::fmt;

use super::{Plan, Sample, check_model_sample, check_sample};
use crate::{kvm::Kvm, report::Check};

/// What makes the touches, and holds the second stage in which they fault.
#[derive(Clone, Copy, Debug)]
pub enum Accel<'a> {
    /// A real guest.
    Kvm(&'a Kvm),
    /// Threads of this process over the software second stage, for managed backings.
    Model,
}

impl Accel<'_> {
    /// What reports call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm(_) => "kvm",
            Self::Model => "model",
        }
    }

    /// What must agree in a sample of it.
    pub(super) fn check(self, plan: &Plan, sample: &Sample) -> Vec<Check> {
        match self {
            Self::Kvm(_) => check_sample(plan, sample),
            Self::Model => check_model_sample(plan, sample),
        }
    }
}

impl fmt::Display for Accel<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
