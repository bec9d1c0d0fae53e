//! The `underlay` command: launches microVMs and measures how their memory faults.

mod args;
mod closed_stdout;
mod compare;
mod failure;
mod host;
mod measure;
mod output;
mod progress;
mod run;
mod startup;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use failure::Failure;

fn main() -> ExitCode {
    let args = Args::parse();
    init_log(args.verbose);
    let result = closed_stdout::check().and_then(|()| match args.command {
        Command::Run(args) => run::main(&args),
        Command::Measure(args) => done(measure::main(&args)),
        Command::Compare(args) => done(compare::main(&args)),
        Command::Host(args) => done(host::main(&args)),
        Command::Startup(args) => done(startup::main(&args)),
    });
    result.unwrap_or_else(|failure| failure.report())
}

/// What is done is a success.
fn done(outcome: Outcome) -> Outcome<ExitCode> {
    outcome.map(|()| ExitCode::SUCCESS)
}

/// The library's log on stderr: warnings, and more with each -v.
fn init_log(verbose: u8) {
    let level = match verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        2 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    };
    vmm::logging::init(level);
}

/// The result of a subcommand.
type Outcome<T = ()> = Result<T, Failure>;
