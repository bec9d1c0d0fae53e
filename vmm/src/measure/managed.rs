//! What a managed guest RAM did in one sample.

use std::{
    thread,
    time::{Duration, Instant},
};

use guest_mem::{FaultReason, GuestRam, Mm, MmReport, MmStats, pgtable};
use hdrhistogram::CreationError;

use super::{Stages, stages::SlowTouches};

/// How long the handlers get to say what they did, after the guest has stopped.
const HANDLERS_DEADLINE: Duration = Duration::from_millis(500);

/// What a managed guest RAM did in one sample.
#[derive(Clone, Debug)]
pub struct ManagedSample {
    /// Its faults, by what they came to.
    pub faults: MmStats,
    /// How many faults its handlers took from userfaultfd, if all were traced.
    pub handled: Option<u64>,
    /// What it maps after both passes.
    pub mapped: pgtable::Mapped,
    /// Frames that were taken and had been zeroed ahead, of 4 KiB.
    pub stock_hits: u64,
    /// Frames that were zeroed in the fault, of 4 KiB.
    pub zeroed_at_take: u64,
    /// How long the guest was kept waiting, before anything was timed, for the stock to be zeroed.
    pub stock_wait: Duration,
    /// What its memory looks like after both passes.
    pub memory: MmReport,
    /// What the time of its faults went into; `None` where not every touch was kept, or where the guest's counter and
    /// the host's do not count alike.
    pub stages: Option<Stages>,
}

/// Waits until as much is zeroed ahead as shall be. Returns how long that took.
pub(super) fn wait_until_stocked(mm: &Mm) -> Duration {
    let start = Instant::now();
    mm.pool().wait_until_stocked();
    start.elapsed()
}

impl ManagedSample {
    /// What `mm`, which runs `ram`, did until now. `trace` is how many faults each handler traced at most.
    pub(super) fn of(
        ram: &GuestRam,
        mm: &Mm,
        stock_wait: Duration,
        trace: usize,
        touches: Option<&SlowTouches>,
    ) -> Result<Self, CreationError> {
        let mut traced = ram.take_fault_trace();
        let deadline = Instant::now() + HANDLERS_DEADLINE;
        // A handler may have woken the guest long before it gets to run again, and traces the fault only then.
        while traced.len() < trace && (traced.len() as u64) < ended(&mm.stats()) && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(1));
            traced.extend(ram.take_fault_trace());
        }
        let pool = mm.pool().report();
        Ok(Self {
            faults: mm.stats(),
            handled: (traced.len() < trace).then_some(traced.len() as u64),
            mapped: mm.page_table().mapped(),
            stock_hits: pool.stock_hits,
            zeroed_at_take: pool.zeroed_at_take,
            stock_wait,
            memory: MmReport { replaced_handlers: ram.replaced_handlers(), ..mm.report() },
            stages: touches.map(|touches| touches.stages(&traced)).transpose()?,
        })
    }

    /// How many faults came to an end.
    #[must_use]
    pub fn ended(&self) -> u64 {
        ended(&self.faults)
    }

    /// How many faults were counted for one of `reasons`.
    #[must_use]
    pub fn count(&self, reasons: &[FaultReason]) -> u64 {
        reasons.iter().map(|reason| self.faults.of(*reason)).sum()
    }
}

fn ended(faults: &MmStats) -> u64 {
    use FaultReason::{Base, Busy, Denied, Failed, Filled, Huge, Spurious, WriteProtect};
    let each = [Huge, Base, Filled, Spurious, WriteProtect, Denied, Busy, Failed];
    each.iter().map(|reason| faults.of(*reason)).sum()
}
