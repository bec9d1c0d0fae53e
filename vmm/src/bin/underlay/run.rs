//! `underlay run`: from what the user asked for to a microVM that runs, and to its exit code.

mod control;

use std::{num::NonZeroUsize, path::Path, process::ExitCode, thread};

use guest_mem::Prefault;
use vmm::{
    api::{self, Configuration, VmConfig, schema},
    boot::Symbols,
    control::{Handover, HandoverError, LaunchOptions, Launcher},
    interrupt::{self, Interrupt},
    logging,
    microvm::{Ending, LoopError},
    stderr,
};

use crate::{
    Outcome,
    args::RunArgs,
    failure::Failure,
    measure::{check_handler_cpu, managed_of},
};

pub(crate) fn main(args: &RunArgs) -> Outcome<ExitCode> {
    let result = run(args);
    if result.is_err() {
        // Nothing is left of a start that was refused.
        logging::close();
    }
    result
}

fn run(args: &RunArgs) -> Outcome<ExitCode> {
    let interrupt = Interrupt::on_signals().map_err(Failure::host)?;
    check_handler_cpu(args.faults.handler_cpu)?;
    control::set_log(&args.control)?;
    let (configuration, is_complete) = configuration_of(args)?;
    let handover = Handover::new().map_err(Failure::host)?;
    let launcher = Launcher::new(options_of(args), interrupt.clone(), handover.clone());
    let _control = control::start(&args.control, configuration, launcher, is_complete)?;
    let running = match handover.wait(&interrupt) {
        Ok(running) => running,
        Err(HandoverError::Interrupted) => {
            tell("interrupted before a microVM was started");
            return Ok(ExitCode::from(interrupt::exit_code()));
        }
        Err(error) => return Err(Failure::host(error)),
    };
    let kernel = running.kernel().to_owned();
    match running.wait(Vec::new(), args.watchdog, &mut tell) {
        Ok(ending) => exit_code(ending, &kernel),
        Err(LoopError::Interrupted) => {
            tell("interrupted; the guest was stopped where it was");
            Ok(ExitCode::from(interrupt::exit_code()))
        }
        Err(error) => Err(Failure::host(error)),
    }
}

/// What is to run, and whether that is all of it: else the rest comes by the API.
fn configuration_of(args: &RunArgs) -> Outcome<(Configuration, bool)> {
    if let Some(path) = &args.control.config_file {
        return Ok((api::config_file::load(path).map_err(Failure::user)?, true));
    }
    let Some(kernel) = &args.kernel else {
        return Ok((Configuration::default(), false));
    };
    let source = schema::BootSource {
        kernel_image_path: kernel.clone(),
        initrd_path: args.initrd.clone(),
        boot_args: Some(args.cmdline.clone()),
    };
    let machine = schema::MachineConfig {
        vcpu_count: u8::try_from(args.vcpus.get()).unwrap_or(u8::MAX),
        mem_size_mib: args.mem.bytes().div_ceil(1 << 20),
        backing: Some(args.backing.clone()),
        ..schema::MachineConfig::default()
    };
    let config = VmConfig {
        boot_source: Some(source),
        machine_config: machine,
        drives: args.devices.drives(),
        network_interfaces: args.devices.network_interfaces().map_err(Failure::user)?,
        balloon: args.devices.balloon(),
        entropy: args.devices.entropy(),
        ..VmConfig::default()
    };
    // Whoever starts it says what is wrong, in more detail.
    Ok((Configuration::assume(config), true))
}

fn options_of(args: &RunArgs) -> LaunchOptions {
    let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    LaunchOptions {
        guest: args.control.id.to_string(),
        memory: args.kernel.as_ref().map(|_| args.mem),
        vcpus: args.kernel.as_ref().map(|_| args.vcpus.get()),
        backing: Some(args.backing.clone()),
        prefault: args.prefault.then_some(Prefault { threads }),
        numa_node: args.numa_node,
        managed: managed_of(&args.faults, args.stock),
        masked: args.mask_cpu.clone(),
        protocol: args.protocol.into(),
    }
}

/// What scripts see of how the guest ended.
fn exit_code(ending: Ending, kernel: &Path) -> Outcome<ExitCode> {
    match ending {
        Ending::Exited(status) => Ok(ExitCode::from(status)),
        Ending::Reset | Ending::Stopped => Ok(ExitCode::SUCCESS),
        Ending::Guest(stopped) => {
            let symbols = Symbols::read(kernel);
            Err(Failure::Host(anyhow::anyhow!("{}", stopped.describe(&symbols))))
        }
        Ending::Kvm { vcpu, source } => {
            Err(Failure::Host(anyhow::Error::new(source).context(format!("vCPU {vcpu} could not run"))))
        }
        Ending::Panicked { vcpu } => {
            Err(Failure::Host(anyhow::anyhow!("the thread of vCPU {vcpu} panicked")))
        }
    }
}

/// Tells the user, if stderr has room for it, while the guest goes on.
fn tell(message: &str) {
    stderr::write_if_room(format!("underlay: {message}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use guest_mem::Backing;

    use super::*;

    #[test]
    fn the_configuration_has_the_backing() {
        let args = RunArgs::parse_from(["run", "--kernel", "k", "--backing", "managed_4kb"]);

        let (configuration, _) = configuration_of(&args).unwrap();

        assert_eq!(configuration.config().machine_config.backing, Some(Backing::Managed4kb));
    }
}
