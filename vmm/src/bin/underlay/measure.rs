//! `underlay measure`: from what the user asked to what this host can do, and out to every place that was named.

mod choice;
mod modelled;
mod outputs;

use std::{num::NonZeroUsize, thread, time::Duration};

use guest_mem::{FaultAround, ManagedConfig, ServiceConfig, Stock, Waiting};
use nix::{sched::sched_getaffinity, unistd::Pid};
use vmm::{
    host::{self, StealClock},
    interrupt::Interrupt,
    kvm::Kvm,
    measure::{self, Accel, Plan, TouchSink},
    report::{Ratio, Report, SCHEMA, Touch},
};

use crate::{
    Outcome,
    args::{AccelName, FaultArgs, HandlerWait, MeasureArgs},
    failure::Failure,
    progress::Bar,
};
use choice::choose;
use modelled::choose_modelled;
use outputs::Outputs;

/// How long a handler that spins does so after a fault: longer than a guest needs from one to the next.
const SPIN: Duration = Duration::from_millis(1);

pub(crate) fn main(args: &MeasureArgs) -> Outcome {
    let interrupt = Interrupt::on_signals().map_err(Failure::host)?;
    let plan = plan_of(args);
    Plan::check_mem(plan.mem).map_err(Failure::user)?;
    let kvm = match args.accel {
        AccelName::Kvm => Some(Kvm::open().map_err(Failure::host)?),
        AccelName::Model => None,
    };
    // Before the plan's own limit, which more RAM would raise.
    if let Some(limit) = kvm.as_ref().map(Kvm::max_vcpus).filter(|limit| plan.vcpus as usize > *limit) {
        return Err(Failure::User(anyhow::anyhow!(
            "{} vCPUs are more than this KVM gives one VM: use at most {limit}",
            plan.vcpus
        )));
    }
    plan.check().map_err(Failure::user)?;
    check_handler_cpu(args.managed.faults.handler_cpu)?;
    let (accel, backings, skipped) = match &kvm {
        Some(kvm) => {
            let (backings, skipped) = choose(kvm, &plan, args.backing.clone())?;
            (Accel::Kvm(kvm), backings, skipped)
        }
        None => (Accel::Model, choose_modelled(&plan, args.backing.clone())?, Vec::new()),
    };
    let mut outputs = Outputs::open(args, &interrupt)?;

    let steal = StealClock::start();
    let measurement = {
        let mut bar = Bar::new(u64::from(plan.samples + 1) * backings.len() as u64);
        let mut touches = outputs.touch_writer()?;
        let mut write = |touch: &Touch<'_>| touches.as_mut().map_or(Ok(()), |out| out.touch(touch));
        let sink: Option<TouchSink<'_>> = if plan.every_touch { Some(&mut write) } else { None };
        let measurement = measure::measure(accel, &plan, &backings, &interrupt, &mut bar, sink)
            .map_err(Failure::of_measure)?;
        if let Some(touches) = touches {
            touches.finish().map_err(Failure::of_touches)?;
        }
        measurement
    };
    let mut host = host::report_host(measurement.tsc_khz.get());
    steal.record(&mut host);
    let warnings = host::warnings(&host, &backings).iter().map(ToString::to_string).collect();
    let ratios = Ratio::among(&measurement.runs);
    outputs.write(&Report { schema: SCHEMA, host, warnings, runs: measurement.runs, ratios, skipped })
}

fn plan_of(args: &MeasureArgs) -> Plan {
    let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    Plan {
        mem: args.mem,
        guest_page: args.guest_page,
        vcpus: args.vcpus.get(),
        overlap: args.overlap,
        access: args.access,
        pattern: args.pattern,
        samples: args.samples.get(),
        prefault: args.prefault.then_some(threads),
        numa_node: args.numa_node,
        pin: args.pin.clone(),
        managed: managed_of(&args.managed.faults, args.managed.stock),
        seed: args.seed,
        every_touch: args.samples_out.is_some(),
    }
}

/// How managed RAM is run, of which `stock` is zeroed ahead.
pub(crate) fn managed_of(args: &FaultArgs, stock: Stock) -> ManagedConfig {
    let handlers = usize::try_from(args.handlers.get()).ok().and_then(NonZeroUsize::new);
    let service = ServiceConfig {
        handlers: handlers.unwrap_or(NonZeroUsize::MIN),
        waiting: match args.handler_wait {
            HandlerWait::Sleep => Waiting::Sleep,
            HandlerWait::Spin => Waiting::Spin(SPIN),
        },
        cpu: args.handler_cpu,
        ..ServiceConfig::default()
    };
    let (base, huge) = (args.fault_around, args.fault_around_huge);
    let around = FaultAround {
        base_bytes: base.least,
        most_base_bytes: base.most,
        huge_pages: huge.least,
        most_huge_pages: huge.most,
    };
    ManagedConfig { around, service, stock, ..ManagedConfig::default() }
}

/// Whether this process may run on `cpu`.
pub(crate) fn check_handler_cpu(cpu: Option<usize>) -> Outcome {
    let Some(cpu) = cpu else {
        return Ok(());
    };
    let allowed = sched_getaffinity(Pid::from_raw(0)).map_err(Failure::host)?;
    if allowed.is_set(cpu).unwrap_or(false) {
        return Ok(());
    }
    Err(Failure::User(anyhow::anyhow!(
        "cannot bind the fault handlers to CPU {cpu}: use one that this host has and this process may use"
    )))
}
