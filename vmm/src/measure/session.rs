//! One sample while it is being taken: what is done with a machine before, between and after the two passes.

use std::time::Duration;

use vm_memory::GuestAddress;

use super::{
    Clock, ManagedSample, Pass, Plan, Sample, SampleError, Timer, TouchSink, cpu,
    managed::wait_until_stocked,
    offset::{Bounds, Offset},
    plan::Share,
    stages::SlowTouches,
};
use crate::{
    driver::{Access, Command, Op, Record, TimedTouch},
    kvm::{Descriptor, Snapshot, Stats, StatsError},
    machine::{Done, Machine},
    report::{Mapped, SLOW_NS, Touch},
};

/// How many pairs of time stamps around nothing are taken.
pub(super) const TIMER_TOUCHES: usize = 4096;
/// How often a guest that does nothing is entered.
const ENTRIES: usize = 33;
/// Pages of the record area that are touched before anything is timed.
const PAGE: u64 = 4096;

/// A machine on which one sample is being taken.
pub(super) struct Session<'plan, 'sink> {
    pub(super) machine: Machine,
    pub(super) plan: &'plan Plan,
    pub(super) record: Record,
    pub(super) backing: String,
    /// The sample's.
    pub(super) number: u32,
    pub(super) sink: Option<TouchSink<'sink>>,
    /// How many faults each handler of a managed RAM traces at most.
    pub(super) trace: usize,
    /// What each vCPU's counter and the host's have to do with each other.
    bounds: Vec<Bounds>,
    /// Those of the first pass, if the RAM is managed.
    slow: Option<SlowTouches>,
}

/// A vCPU and its part, for one pass.
struct Part {
    id: usize,
    share: Share,
    pass: u32,
    /// None if the counters do not count alike.
    offset: Option<Offset>,
}

impl<'plan> Session<'plan, '_> {
    pub(super) fn new(machine: Machine, plan: &'plan Plan, record: Record, backing: String) -> Self {
        let bounds = vec![Bounds::NONE; machine.vcpus()];
        let keeps = record == Record::Samples && machine.ram().mm().is_some();
        let slow = keeps.then(SlowTouches::default);
        Self { machine, plan, record, backing, number: 0, sink: None, trace: 0, bounds, slow }
    }

    /// Takes the sample; `made` is what RAM has cost until the stock is there.
    pub(super) fn run(mut self, made: impl FnOnce() -> Duration) -> Result<Sample, SampleError> {
        let stock_wait = self.machine.ram().mm().map(|mm| wait_until_stocked(mm));
        let made = made();
        self.warm_records()?;
        let timer = self.time_nothing()?;
        let enter_ns = self.enter()?;
        let clock = Clock::new(self.machine.tsc_khz(), timer);
        let gauges = Gauges::open(&self.machine)?;
        let before = gauges.read()?;

        let (first, cpu) = self.first_pass(clock)?;
        let mapped = gauges.read()?.since(before);
        let second = self.pass(2, clock)?;

        let ram = self.machine.ram();
        let resident_bytes = ram.report()?.resident_bytes;
        let managed = ram
            .mm()
            .zip(stock_wait)
            .map(|(mm, stock_wait)| ManagedSample::of(ram, mm, stock_wait, self.trace, self.slow.as_ref()));
        Ok(Sample {
            first,
            second,
            timer,
            enter_ns,
            tsc_khz: self.machine.tsc_khz(),
            mapped,
            resident_bytes,
            cpu: made + cpu,
            managed: managed.transpose()?,
        })
    }

    /// Runs the commands, and learns what they say of the counters.
    fn command(&mut self, commands: &[Command]) -> Result<Vec<Done>, SampleError> {
        let done = self.machine.run(commands)?;
        for (bounds, done) in self.bounds.iter_mut().zip(&done) {
            *bounds = bounds.narrowed(done);
        }
        Ok(done)
    }

    /// Lets the guest touch the pages that it will record into, so that no fault of theirs is timed.
    fn warm_records(&mut self) -> Result<(), SampleError> {
        let areas = (0..self.machine.vcpus()).map(|id| self.machine.area(id));
        let commands: Vec<_> = areas
            .map(|area| Command {
                op: Op::Touch,
                base: area.records,
                count: area.record_bytes / PAGE,
                stride: PAGE,
                ..Command::default()
            })
            .collect();
        self.command(&commands)?;
        Ok(())
    }

    /// Takes many pairs of time stamps around nothing, on the first vCPU.
    fn time_nothing(&mut self) -> Result<Timer, SampleError> {
        let command = Command {
            op: Op::Touch,
            count: TIMER_TOUCHES as u64,
            access: Access::Nothing,
            record: Record::Samples,
            ..Command::default()
        };
        self.machine.clear_samples(0, TIMER_TOUCHES)?;
        self.command(&[command])?;
        let pairs = self.machine.samples(0, TIMER_TOUCHES)?;
        Timer::of(pairs.iter().map(|pair| pair.ticks).collect()).ok_or(SampleError::NoSample)
    }

    /// The median KVM_RUN of a guest that does nothing.
    fn enter(&mut self) -> Result<u64, SampleError> {
        let mut times = Vec::with_capacity(ENTRIES);
        for _ in 0..ENTRIES {
            let done = self.command(&[])?;
            times.extend(done.iter().map(|done| done.kvm_run_ns).max());
        }
        times.sort_unstable();
        times.get(ENTRIES / 2).copied().ok_or(SampleError::NoSample)
    }

    /// The first pass, and the processor time that it took.
    fn first_pass(&mut self, clock: Clock) -> Result<(Pass, Duration), SampleError> {
        let commands = self.prepare_pass()?;
        let before = cpu::of_process();
        let done = self.command(&commands)?;
        let cpu = cpu::of_process().saturating_sub(before);
        Ok((self.collect(&done, 1, clock)?, cpu))
    }

    fn pass(&mut self, number: u32, clock: Clock) -> Result<Pass, SampleError> {
        let commands = self.prepare_pass()?;
        let done = self.command(&commands)?;
        self.collect(&done, number, clock)
    }

    /// Clears the records. Returns what each vCPU is to do.
    fn prepare_pass(&self) -> Result<Vec<Command>, SampleError> {
        let mut commands = Vec::with_capacity(self.machine.vcpus());
        for (id, share) in self.shares() {
            match self.record {
                Record::Histogram => self.machine.clear_histogram(id)?,
                _ => self.machine.clear_samples(id, share.words())?,
            }
            commands.push(Command { record: self.record, ..share.command(self.plan.access) });
        }
        Ok(commands)
    }

    fn shares(&self) -> impl Iterator<Item = (usize, Share)> + use<'plan> {
        let plan = self.plan;
        (0..plan.vcpus).map(|id| plan.share(id)).enumerate()
    }

    fn collect(&mut self, done: &[Done], number: u32, clock: Clock) -> Result<Pass, SampleError> {
        let mut pass = Pass::of(done, clock)?;
        for (id, share) in self.shares() {
            let offset = self.bounds.get(id).and_then(|bounds| bounds.offset());
            let part = Part { id, share, pass: number, offset };
            if self.record == Record::Histogram {
                for (ticks, count) in self.machine.histogram(id)?.iter() {
                    pass.record(ticks, count, clock);
                }
                continue;
            }
            // The guest records in order: what it did not come to is missing at the end.
            for (order, touch) in (0_u64..).zip(self.machine.samples(id, part.share.words())?) {
                let nanoseconds = pass.record(touch.ticks, 1, clock);
                self.keep(&part, order, touch, nanoseconds)?;
            }
        }
        Ok(pass)
    }

    /// Passes a touch on to whoever wants to know of each.
    fn keep(
        &mut self,
        part: &Part,
        order: u64,
        touch: TimedTouch,
        nanoseconds: f64,
    ) -> Result<(), SampleError> {
        let address = part.share.address(order);
        if part.pass == 1
            && nanoseconds > SLOW_NS
            && let (Some(slow), Some(offset)) = (&mut self.slow, part.offset)
        {
            slow.add(address, touch, offset);
        }
        if let Some(sink) = &mut self.sink {
            sink(&Touch {
                backing: &self.backing,
                sample: self.number,
                vcpu: u32::try_from(part.id).unwrap_or(u32::MAX),
                pass: part.pass,
                order,
                gpa: GuestAddress(address),
                nanoseconds,
            })?;
        }
        Ok(())
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
