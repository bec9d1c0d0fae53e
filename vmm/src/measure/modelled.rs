//! One sample without KVM: threads touch in the guest's place, and a software second stage translates.
//!
//! The memory manager is the same as behind a guest; its host maps nothing, and its frames are numbers. So a sample costs
//! what the metadata of the touched ranges costs, and RAM can be larger than the machine's.

mod vcpu;

use std::{io, num::NonZeroU32, thread, time::Instant};

use guest_mem::{
    Backing, ByteSize, CreateMmError, Mm, MmConfig,
    pool::{CreatePoolError, FramePool, PoolConfig, PoolMemory},
    vma::HugePolicy,
};
use mmu_notifier::{AddressRange, PAGE_SIZE, RangeError};
use vm_memory::GuestAddress;

use super::{Clock, Pass, Plan, Sample, SampleError, Share, Timer, TouchSink, cpu, histogram};
use crate::{
    driver::RAM_BASE,
    interrupt::Interrupt,
    machine::RunError,
    model::{AccessError, FaultCounts, SecondStage, SecondStageError},
    report::{HostFaults, KvmFaults, Touch},
};
use vcpu::{Done, Durations, Start, Vcpu};

/// The clock is the host's, in nanoseconds.
const KHZ: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();
/// How many pairs of time stamps around nothing are taken.
const TIMER_SAMPLES: usize = 4096;
/// Up to so many touches, each vCPU keeps every duration; beyond that, a histogram.
const SAMPLES_LIMIT: u64 = 1 << 20;

/// Why the software second stage could not take a sample.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The kernel resolves the faults of the backing.
    #[error(
        "{0} is resolved by the kernel, and the software second stage has none: use a managed backing, or KVM"
    )]
    KernelResolved(Backing),
    /// RAM has no such range.
    #[error("there is no such guest RAM")]
    Range(#[from] RangeError),
    /// There is no pool.
    #[error("the pool of frames cannot be made")]
    Pool(#[from] CreatePoolError),
    /// There is no memory manager.
    #[error(transparent)]
    Mm(#[from] CreateMmError),
    /// There is no second stage.
    #[error(transparent)]
    SecondStage(#[from] SecondStageError),
    /// A thread could not be started.
    #[error("a thread for a vCPU cannot be started")]
    Thread(#[source] io::Error),
    /// A touch did not come to its page.
    #[error("vCPU {vcpu} cannot touch {address:#x}")]
    Touch {
        /// The vCPU's number.
        vcpu: u32,
        /// The guest-physical address.
        address: u64,
        /// Why not.
        #[source]
        source: AccessError,
    },
}

/// Makes a memory manager and a second stage, measures, and throws them away. `number` is the sample's, for the sink.
pub(super) fn take(
    plan: &Plan,
    backing: &Backing,
    number: u32,
    interrupt: &Interrupt,
    sink: Option<TouchSink<'_>>,
) -> Result<Sample, SampleError> {
    let cpu_before = cpu::of_process();
    let stage = make(plan, backing)?;
    let backing = backing.to_string();
    let timer = Timer::of(time_nothing()).ok_or(SampleError::NoSample)?;
    let mut replay = Replay {
        plan,
        stage: &stage,
        interrupt,
        clock: Clock::new(KHZ, timer),
        backing: &backing,
        number,
        sink,
    };
    let first = replay.pass(1)?;
    let cpu = cpu::of_process().saturating_sub(cpu_before);
    let mapped = stage.mapped();
    let second = replay.pass(2)?;
    let resident_bytes = Some(stage.mm().stretch().report().resident * PAGE_SIZE);
    Ok(Sample { first, second, timer, enter_ns: 0, tsc_khz: KHZ, mapped, resident_bytes, cpu, managed: None })
}

/// A second stage of new RAM.
fn make(plan: &Plan, backing: &Backing) -> Result<SecondStage, ModelError> {
    if !backing.is_managed() {
        return Err(ModelError::KernelResolved(backing.clone()));
    }
    let mut config = MmConfig::new(AddressRange::new(RAM_BASE, plan.mem.bytes())?);
    config.around = plan.managed.around;
    config.flags.huge = match backing {
        Backing::Managed4kb => HugePolicy::Never,
        _ => HugePolicy::Always,
    };
    let capacity = plan.mem.bytes().next_power_of_two();
    let pool = PoolConfig::new(PoolMemory::None, ByteSize::new(capacity).unwrap_or(plan.mem));
    let mm = Mm::modelled(&config, &FramePool::new(&pool)?)?;
    Ok(SecondStage::new(&mm)?)
}

/// Pairs of time stamps around nothing, in nanoseconds.
fn time_nothing() -> Vec<u64> {
    let pair = || {
        let start = Instant::now();
        nanoseconds(start, Instant::now())
    };
    (0..TIMER_SAMPLES).map(|_| pair()).collect()
}

fn nanoseconds(start: Instant, end: Instant) -> u64 {
    u64::try_from(end.duration_since(start).as_nanos()).unwrap_or(u64::MAX)
}

/// A second stage on which one sample is being taken.
struct Replay<'a, 'sink> {
    plan: &'a Plan,
    stage: &'a SecondStage,
    interrupt: &'a Interrupt,
    clock: Clock,
    backing: &'a str,
    number: u32,
    sink: Option<TouchSink<'sink>>,
}

impl Replay<'_, '_> {
    fn pass(&mut self, number: u32) -> Result<Pass, SampleError> {
        let before = self.stage.faults();
        let all = self.run()?;
        let mut pass = pass_of(&all, before, self.stage.faults())?;
        for ((id, done), share) in (0..).zip(&all).zip((0..).map(|id| self.plan.share(id))) {
            self.collect(&mut pass, id, done, &share, number)?;
        }
        Ok(pass)
    }

    /// Lets every vCPU touch its share.
    fn run(&self) -> Result<Vec<Done>, SampleError> {
        let plan = self.plan;
        let keeps_all = plan.every_touch || plan.largest_share() <= SAMPLES_LIMIT;
        let start = Start::new(plan.vcpus);
        thread::scope(|scope| {
            let opening = start.hold();
            let vcpus = (0..plan.vcpus).map(|id| {
                let cpu = plan.pin.iter().cycle().nth(id as usize).copied();
                let (stage, interrupt) = (self.stage, self.interrupt);
                let vcpu =
                    Vcpu { id, share: plan.share(id), access: plan.access, cpu, keeps_all, stage, interrupt };
                let start = &start;
                thread::Builder::new().name(format!("vcpu{id}")).spawn_scoped(scope, move || vcpu.run(start))
            });
            // Without all of them none begins.
            let vcpus = vcpus.collect::<Result<Vec<_>, _>>().map_err(ModelError::Thread)?;
            opening.open();
            let results = (0..).zip(vcpus).map(|(vcpu, thread)| match thread.join() {
                Ok(result) => result,
                Err(_) => Err(RunError::ThreadGone { vcpu }.into()),
            });
            results.collect()
        })
    }

    /// Adds what vCPU `id` recorded.
    fn collect(
        &mut self,
        pass: &mut Pass,
        id: u32,
        done: &Done,
        share: &Share,
        number: u32,
    ) -> Result<(), SampleError> {
        let durations = match &done.durations {
            Durations::All(durations) => durations,
            Durations::Counts(counts) => {
                for (ticks, count) in counts.iter() {
                    pass.record(ticks, count, self.clock);
                }
                return Ok(());
            }
        };
        for (order, ticks) in (0..).zip(durations) {
            let nanoseconds = pass.record(*ticks, 1, self.clock);
            if let Some(sink) = &mut self.sink {
                sink(&Touch {
                    backing: self.backing,
                    sample: self.number,
                    vcpu: id,
                    pass: number,
                    order,
                    gpa: GuestAddress(share.address(order)),
                    nanoseconds,
                })?;
            }
        }
        Ok(())
    }
}

/// What all vCPUs did; no duration is recorded yet.
fn pass_of(all: &[Done], before: FaultCounts, after: FaultCounts) -> Result<Pass, SampleError> {
    let start = all.iter().map(|done| done.start).min().ok_or(SampleError::NoSample)?;
    let end = all.iter().map(|done| done.end).max().ok_or(SampleError::NoSample)?;
    let wall_ns = nanoseconds(start, end);
    Ok(Pass {
        touches: all.iter().map(|done| done.touches).sum(),
        ticks: histogram()?,
        slow: 0,
        wall_ns,
        kvm_run_ns: wall_ns,
        kvm: KvmFaults {
            pf_taken: after.taken - before.taken,
            pf_fixed: after.fixed - before.fixed,
            pf_spurious: after.spurious - before.spurious,
            ..KvmFaults::default()
        },
        host: HostFaults {
            minor: all.iter().map(|done| done.host.minor).sum(),
            major: all.iter().map(|done| done.host.major).sum(),
        },
    })
}
