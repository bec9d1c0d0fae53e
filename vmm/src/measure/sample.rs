//! One sample: a new machine, every page touched for the first time, then for the second.

use std::{num::NonZeroU32, time::Duration};

use guest_mem::{Backing, ManagedConfig, ServiceConfig};
use hdrhistogram::CreationError;

use super::{
    ManagedSample, ModelError, Pass, Plan, Timer,
    cpu::Making,
    session::{Session, TIMER_TOUCHES},
};
use crate::{
    driver::Record,
    interrupt::Interrupt,
    kvm::{Kvm, StatsError},
    machine::{Machine, MachineConfig, MachineError, RunError},
    report::{Mapped, Touch},
};

/// Up to so many touches, each vCPU leaves every touch in memory; beyond that, a histogram.
const TOUCHES_LIMIT: u64 = 1 << 20;
/// Faults that a handler has room to trace beyond one for each touch.
const TRACE_SPARE: usize = 4096;

/// What one sample found.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The first touch of every word.
    pub first: Pass,
    /// The second touch of the same words, in the same order.
    pub second: Pass,
    /// What taking the time costs, and how fine it is.
    pub timer: Timer,
    /// How long KVM_RUN takes by the host's clock when the guest does nothing, in nanoseconds: the way in and out.
    pub enter_ns: u64,
    /// The frequency of the guest's time stamp counter, in kHz.
    pub tsc_khz: NonZeroU32,
    /// What the second stage held for RAM after the first touches.
    pub mapped: Mapped,
    /// Resident bytes of guest RAM after both passes.
    pub resident_bytes: Option<u64>,
    /// Processor time of all threads: to make RAM, to zero ahead, and for the first pass.
    pub cpu: Duration,
    /// What a managed RAM did; `None` where the kernel resolves the faults, and where no handler does.
    pub managed: Option<ManagedSample>,
}

/// Why a sample could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The machine could not be made.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The guest could not do its work.
    #[error(transparent)]
    Run(#[from] RunError),
    /// KVM's statistics could not be read.
    #[error(transparent)]
    Stats(#[from] StatsError),
    /// The guest's records could not be read.
    #[error("cannot read what the guest recorded")]
    Records(#[from] vm_memory::GuestMemoryError),
    /// What is resident could not be found out.
    #[error("cannot tell how much of the guest's RAM is resident")]
    Resident(#[from] guest_mem::ReportError),
    /// The software second stage could not do the guest's work.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// There is nothing to summarize.
    #[error("no sample was taken")]
    NoSample,
    /// The durations could not be counted.
    #[error("cannot make a histogram")]
    Histogram(#[from] CreationError),
    /// A touch could not be written out.
    #[error("cannot write the touches")]
    Output(#[from] std::io::Error),
}

/// What is done with every single touch.
pub type TouchSink<'a> = &'a mut dyn FnMut(&Touch<'_>) -> std::io::Result<()>;

impl Sample {
    /// Makes a machine, measures it, and throws it away. `number` is the sample's, for the sink.
    ///
    /// # Errors
    /// [`SampleError`].
    pub fn take(
        kvm: &Kvm,
        plan: &Plan,
        backing: &Backing,
        number: u32,
        interrupt: &Interrupt,
        sink: Option<TouchSink<'_>>,
    ) -> Result<Self, SampleError> {
        let keeps_all = plan.every_touch || plan.largest_share() <= TOUCHES_LIMIT;
        let (record, touches) =
            if keeps_all { (Record::Samples, plan.largest_share()) } else { (Record::Histogram, 0) };
        // One handler may come by all of the faults.
        let trace = if keeps_all && backing.is_managed() {
            usize::try_from(plan.touches()).unwrap_or(usize::MAX).saturating_add(TRACE_SPARE)
        } else {
            0
        };
        let service = ServiceConfig { trace, ..plan.managed.service };
        let config = MachineConfig {
            name: "measure".to_owned(),
            size: plan.mem,
            backing: backing.clone(),
            prefault: plan.prefault,
            numa_node: plan.numa_node,
            managed: ManagedConfig { service, ..plan.managed.clone() },
            shares: None,
            guest_page: plan.guest_page,
            vcpus: plan.vcpus,
            pin: plan.pin.clone(),
            samples_per_vcpu: touches.max(TIMER_TOUCHES as u64),
        };
        let mut making = Making::default();
        let machine = Machine::new_in_stages(kvm, &config, interrupt, &mut |stage| making.reached(stage))?;
        let mut session = Session::new(machine, plan, record, backing.to_string());
        (session.number, session.sink, session.trace) = (number, sink, trace);
        session.run(|| making.spent())
    }
}

impl Mapped {
    /// What was mapped since `before`; what went away meanwhile does not count below zero.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            pages_4k: self.pages_4k.saturating_sub(before.pages_4k),
            pages_2m: self.pages_2m.saturating_sub(before.pages_2m),
            pages_1g: self.pages_1g.saturating_sub(before.pages_1g),
        }
    }

    /// How many bytes all of it is.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        (self.pages_4k << 12) + (self.pages_2m << 21) + (self.pages_1g << 30)
    }
}
