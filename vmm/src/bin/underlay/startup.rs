//! `underlay startup`: this program started again and again, each time with one guest, and what the time goes into.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use vmm::{
    interrupt::Interrupt,
    kvm::Kvm,
    machine::MachineConfig,
    measure::Plan,
    report::{StartupReport, write_startup},
    startup::{self, Start, StartError, monotonic},
};

use crate::{
    Outcome,
    args::StartupArgs,
    failure::Failure,
    output::{print, terminal_width},
};

pub(crate) fn main(args: &StartupArgs) -> Outcome {
    Plan::check_mem(args.mem).map_err(Failure::user)?;
    let Some(asked) = args.child else {
        return parent(args);
    };
    let interrupt = Interrupt::on_signals().map_err(Failure::host)?;
    let start = child(args, &interrupt, Duration::from_nanos(asked))?;
    print(|out| serde_json::to_writer(out, &start).map_err(Into::into))
}

fn child(args: &StartupArgs, interrupt: &Interrupt, asked: Duration) -> Outcome<Start> {
    let kvm = Kvm::open().map_err(Failure::host)?;
    let config = MachineConfig::new("startup", args.mem, args.backing.clone());
    startup::start(&kvm, &config, interrupt, asked).map_err(|error| match error {
        _ if interrupt.is_raised() => Failure::Interrupted,
        StartError::Machine(error) => Failure::of_machine(error),
        error => Failure::host(error),
    })
}

fn parent(args: &StartupArgs) -> Outcome {
    // In the parent first, so that what cannot work is told once and with the right exit code.
    let interrupt = Interrupt::on_signals().map_err(Failure::host)?;
    child(args, &interrupt, monotonic())?;
    let mut starts = Vec::new();
    let mut empty = Vec::new();
    // A B A B, after a start of each that is not counted.
    for number in 0..=args.samples.get() {
        let round = time_version().and_then(|nothing| Ok((nothing, spawn(args)?)));
        // Before the round's own failure: the signal may have ended one of its processes too.
        if interrupt.is_raised() {
            return Err(Failure::Interrupted);
        }
        let (nothing, start) = round?;
        if number > 0 {
            empty.push(nothing);
            starts.push(start);
        }
    }
    let report =
        StartupReport::of(args.backing.to_string(), args.mem.bytes(), &starts, &empty).ok_or_else(|| {
            Failure::Host(anyhow::anyhow!("the started processes disagree on what they reached"))
        })?;
    print(|mut out| {
        if args.json {
            serde_json::to_writer_pretty(&mut out, &report)?;
            writeln!(out)
        } else {
            write_startup(&report, terminal_width(), &mut out)
        }
    })
}

fn this_program() -> Outcome<Command> {
    let path = std::env::current_exe().map_err(Failure::host)?;
    Ok(Command::new(path))
}

fn spawn(args: &StartupArgs) -> Outcome<Start> {
    let mut command = this_program()?;
    command
        .args(["startup", "--backing", &args.backing.to_string()])
        .args(["--mem", &args.mem.bytes().to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let asked = monotonic();
    let output = command.args(["--child", &asked.as_nanos().to_string()]).output().map_err(Failure::host)?;
    if !output.status.success() {
        return Err(Failure::Host(anyhow::anyhow!("a started process failed: {}", output.status)));
    }
    serde_json::from_slice(&output.stdout).map_err(Failure::host)
}

/// How long it takes to start this program, let it print its version, and see it end, in nanoseconds.
fn time_version() -> Outcome<u64> {
    let mut command = this_program()?;
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null());
    let asked = monotonic();
    command.status().map_err(Failure::host)?;
    Ok(u64::try_from(monotonic().saturating_sub(asked).as_nanos()).unwrap_or(u64::MAX))
}
