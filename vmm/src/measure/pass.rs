//! One pass over all words: how long each touch took, and what it took.

use hdrhistogram::{CreationError, Histogram};

use super::Clock;
use crate::{
    machine::Done,
    report::{HostFaults, KvmFaults, SLOW_NS},
};

/// One pass over all words, by all vCPUs.
#[derive(Clone, Debug)]
pub struct Pass {
    /// How many touches the guests say they made.
    pub touches: u64,
    /// Durations in ticks, less what a pair of time stamps cost in this sample; never below zero.
    pub ticks: Histogram<u64>,
    /// How many touches took longer than [`SLOW_NS`].
    pub slow: u64,
    /// From the first start to the last end, by the guest's counter, in nanoseconds.
    pub wall_ns: u64,
    /// The longest KVM_RUN, by the host's clock, in nanoseconds.
    pub kvm_run_ns: u64,
    /// KVM's counters.
    pub kvm: KvmFaults,
    /// The host's counters.
    pub host: HostFaults,
}

/// An empty histogram of ticks, three digits exact, up to several minutes.
///
/// # Errors
/// Never in practice: the bounds are constants.
pub fn histogram() -> Result<Histogram<u64>, CreationError> {
    Histogram::new_with_bounds(1, 1 << 40, 3)
}

impl Pass {
    /// What the vCPUs counted; no duration is recorded yet.
    pub(super) fn of(done: &[Done], clock: Clock) -> Result<Self, CreationError> {
        let start = done.iter().map(|done| done.outcome.start_tsc).min().unwrap_or(0);
        let end = done.iter().map(|done| done.outcome.end_tsc).max().unwrap_or(0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds of one run")]
        let wall_ns = clock.ns(end.saturating_sub(start)) as u64;
        let mut pass = Self {
            touches: done.iter().map(|done| done.outcome.touches).sum(),
            ticks: histogram()?,
            slow: 0,
            wall_ns,
            kvm_run_ns: done.iter().map(|done| done.kvm_run_ns).max().unwrap_or(0),
            kvm: KvmFaults::default(),
            host: HostFaults::default(),
        };
        for done in done {
            pass.kvm.pf_taken += done.kvm.pf_taken;
            pass.kvm.pf_fixed += done.kvm.pf_fixed;
            pass.kvm.pf_spurious += done.kvm.pf_spurious;
            pass.kvm.pf_emulate += done.kvm.pf_emulate;
            pass.kvm.pf_guest += done.kvm.pf_guest;
            pass.host.minor += done.host.minor;
            pass.host.major += done.host.major;
        }
        Ok(pass)
    }

    /// Counts `count` touches that took `ticks` each, the time stamps' own cost included. Returns what is net of it,
    /// in nanoseconds.
    pub(super) fn record(&mut self, ticks: u64, count: u64, clock: Clock) -> f64 {
        let net = clock.net(ticks);
        self.ticks.saturating_record_n(net, count);
        let nanoseconds = clock.ns(net);
        if nanoseconds > SLOW_NS {
            self.slow += count;
        }
        nanoseconds
    }

    /// The faults that KVM took for the touches: all but those that ended in emulation, as the doorbells' do.
    pub(super) const fn faults(&self) -> u64 {
        self.kvm.pf_taken.saturating_sub(self.kvm.pf_emulate)
    }
}
