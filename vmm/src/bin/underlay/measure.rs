//! `underlay measure`: from what the user asked to what this host can do, and out to every place that was named.

mod choice;
mod outputs;

use std::{num::NonZeroUsize, thread};

use vmm::{
    host::{self, StealClock},
    interrupt::Interrupt,
    kvm::Kvm,
    measure::{self, Plan, TouchSink},
    report::{Report, SCHEMA, Touch},
};

use crate::{Outcome, args::MeasureArgs, failure::Failure, progress::Bar};
use choice::choose;
use outputs::Outputs;

pub(crate) fn main(args: &MeasureArgs) -> Outcome {
    let interrupt = Interrupt::on_signals().map_err(Failure::host)?;
    let plan = plan_of(args);
    Plan::check_mem(plan.mem).map_err(Failure::user)?;
    let kvm = Kvm::open().map_err(Failure::host)?;
    // Before the plan's own limit, which more RAM would raise.
    let limit = kvm.max_vcpus();
    if plan.vcpus as usize > limit {
        return Err(Failure::User(anyhow::anyhow!(
            "{} vCPUs are more than this KVM gives one VM: use at most {limit}",
            plan.vcpus
        )));
    }
    plan.check().map_err(Failure::user)?;
    let (backings, skipped) = choose(&kvm, &plan, args.backing.clone())?;
    let mut outputs = Outputs::open(args, &interrupt)?;

    let steal = StealClock::start();
    let measurement = {
        let mut bar = Bar::new(u64::from(plan.samples + 1) * backings.len() as u64);
        let mut touches = outputs.touch_writer()?;
        let mut write = |touch: &Touch<'_>| touches.as_mut().map_or(Ok(()), |out| out.touch(touch));
        let sink: Option<TouchSink<'_>> = if plan.every_touch { Some(&mut write) } else { None };
        let measurement = measure::measure(&kvm, &plan, &backings, &interrupt, &mut bar, sink)
            .map_err(Failure::of_measure)?;
        if let Some(touches) = touches {
            touches.finish().map_err(Failure::of_touches)?;
        }
        measurement
    };
    let mut host = host::report_host(measurement.tsc_khz.get());
    steal.record(&mut host);
    let warnings = host::warnings(&host, &backings).iter().map(ToString::to_string).collect();
    outputs.write(&Report { schema: SCHEMA, host, warnings, runs: measurement.runs, skipped })
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
        seed: args.seed,
        every_touch: args.samples_out.is_some(),
    }
}
