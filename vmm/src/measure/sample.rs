//! One sample: a new machine, every page touched for the first time, then for the second.

use std::num::NonZeroU32;

use guest_mem::Backing;
use hdrhistogram::CreationError;
use vm_memory::GuestAddress;

use super::{Clock, Pass, Plan, Timer, plan::Share};
use crate::{
    driver::{Access, Command, Op, Record},
    interrupt::Interrupt,
    kvm::{Descriptor, Kvm, Snapshot, Stats, StatsError},
    machine::{Machine, MachineConfig, MachineError, RunError},
    report::{Mapped, Touch},
};

/// Up to so many touches, each vCPU leaves every sample in memory; beyond that, a histogram.
const SAMPLES_LIMIT: u64 = 1 << 20;
/// How many pairs of time stamps around nothing are taken.
const TIMER_SAMPLES: usize = 4096;
/// How often a guest that does nothing is entered.
const ENTRIES: usize = 9;
/// Pages of the record area that are touched before anything is timed.
const PAGE: u64 = 4096;

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
        let keep_samples = plan.every_touch || plan.largest_share() <= SAMPLES_LIMIT;
        let config = MachineConfig {
            name: "measure".to_owned(),
            size: plan.mem,
            backing: backing.clone(),
            prefault: plan.prefault,
            numa_node: plan.numa_node,
            guest_page: plan.guest_page,
            vcpus: plan.vcpus,
            pin: plan.pin.clone(),
            samples_per_vcpu: if keep_samples {
                plan.largest_share().max(TIMER_SAMPLES as u64)
            } else {
                TIMER_SAMPLES as u64
            },
        };
        let record = if keep_samples { Record::Samples } else { Record::Histogram };
        let machine = Machine::new(kvm, &config, interrupt)?;
        let backing = backing.to_string();
        Session { machine, plan, record, backing, number, sink }.run()
    }
}

/// A machine on which one sample is being taken.
struct Session<'plan, 'sink> {
    machine: Machine,
    plan: &'plan Plan,
    record: Record,
    backing: String,
    number: u32,
    sink: Option<TouchSink<'sink>>,
}

impl Session<'_, '_> {
    fn run(mut self) -> Result<Sample, SampleError> {
        self.warm_records()?;
        let timer = self.time_nothing()?;
        let enter_ns = self.enter()?;
        let clock = Clock::new(self.machine.tsc_khz(), timer);
        let gauges = Gauges::open(&self.machine)?;
        let before = gauges.read()?;
        let first = self.pass(1, clock)?;
        let mapped = gauges.read()?.since(before);
        let second = self.pass(2, clock)?;
        let resident_bytes = self.machine.ram().report()?.resident_bytes;
        Ok(Sample { first, second, timer, enter_ns, tsc_khz: self.machine.tsc_khz(), mapped, resident_bytes })
    }

    /// Lets the guest touch the pages that it will record into, so that no fault of theirs is timed.
    fn warm_records(&mut self) -> Result<(), SampleError> {
        let commands: Vec<_> = self.each_vcpu(|session, id| {
            let area = session.machine.area(id);
            Command {
                op: Op::Touch,
                base: area.records,
                count: area.record_bytes / PAGE,
                stride: PAGE,
                ..Command::default()
            }
        });
        self.machine.run(&commands)?;
        Ok(())
    }

    /// Takes many pairs of time stamps around nothing, on the first vCPU.
    fn time_nothing(&mut self) -> Result<Timer, SampleError> {
        let command = Command {
            op: Op::Touch,
            count: TIMER_SAMPLES as u64,
            access: Access::Nothing,
            record: Record::Samples,
            ..Command::default()
        };
        self.machine.clear_samples(0, TIMER_SAMPLES)?;
        self.machine.run(&[command])?;
        Timer::of(self.machine.samples(0, TIMER_SAMPLES)?).ok_or(SampleError::NoSample)
    }

    /// The median KVM_RUN of a guest that does nothing.
    fn enter(&mut self) -> Result<u64, SampleError> {
        let mut times = Vec::with_capacity(ENTRIES);
        for _ in 0..ENTRIES {
            let done = self.machine.run(&[])?;
            times.extend(done.iter().map(|done| done.kvm_run_ns).max());
        }
        times.sort_unstable();
        times.get(ENTRIES / 2).copied().ok_or(SampleError::NoSample)
    }

    fn pass(&mut self, number: u32, clock: Clock) -> Result<Pass, SampleError> {
        let shares: Vec<_> = (0..self.plan.vcpus).map(|id| self.plan.share(id)).collect();
        let mut commands = Vec::with_capacity(shares.len());
        for (id, share) in shares.iter().enumerate() {
            match self.record {
                Record::Histogram => self.machine.clear_histogram(id)?,
                _ => self.machine.clear_samples(id, share.words())?,
            }
            commands.push(Command { record: self.record, ..share.command(self.plan.access) });
        }
        let done = self.machine.run(&commands)?;
        let mut pass = Pass::of(&done, clock)?;
        for (id, share) in shares.iter().enumerate() {
            self.collect(&mut pass, id, share, number, clock)?;
        }
        Ok(pass)
    }

    /// Adds what vCPU `id` recorded.
    fn collect(
        &mut self,
        pass: &mut Pass,
        id: usize,
        share: &Share,
        number: u32,
        clock: Clock,
    ) -> Result<(), SampleError> {
        if self.record == Record::Histogram {
            for (ticks, count) in self.machine.histogram(id)?.iter() {
                pass.record(ticks, count, clock);
            }
            return Ok(());
        }
        // The guest records in order: what it did not come to is missing at the end.
        let samples = self.machine.samples(id, share.words())?;
        for (order, ticks) in (0_u64..).zip(samples) {
            let nanoseconds = pass.record(ticks, 1, clock);
            if let Some(sink) = &mut self.sink {
                sink(&Touch {
                    backing: &self.backing,
                    sample: self.number,
                    vcpu: u32::try_from(id).unwrap_or(u32::MAX),
                    pass: number,
                    order,
                    gpa: GuestAddress(share.address(order)),
                    nanoseconds,
                })?;
            }
        }
        Ok(())
    }

    fn each_vcpu<T>(&self, make: impl Fn(&Self, usize) -> T) -> Vec<T> {
        (0..self.machine.vcpus()).map(|id| make(self, id)).collect()
    }
}

/// The gauges of the VM that say what its second stage maps.
struct Gauges {
    stats: Stats,
    /// In the order of the fields of [`Mapped`].
    gauges: [Descriptor; 3],
}

impl Gauges {
    fn open(machine: &Machine) -> Result<Self, StatsError> {
        let stats = machine.stats()?;
        let gauges = [stats.require("pages_4k")?, stats.require("pages_2m")?, stats.require("pages_1g")?];
        Ok(Self { stats, gauges })
    }

    fn read(&self) -> Result<Mapped, StatsError> {
        let mut snapshot = Snapshot::default();
        self.stats.read(&mut snapshot)?;
        let [small, large, giant] = self.gauges.each_ref().map(|gauge| snapshot.value(gauge));
        Ok(Mapped { pages_4k: small, pages_2m: large, pages_1g: giant })
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
