//! `underlay run`: from what the user asked for to a microVM that runs, and to its exit code.

use std::{
    io::{self, Write},
    num::NonZeroUsize,
    process::ExitCode,
    thread,
};

use guest_mem::Prefault;
use vmm::{
    boot::{BootSource, Symbols},
    interrupt::{self, Interrupt},
    kvm::Kvm,
    memory::MemoryConfig,
    microvm::{Ending, LoopError, MicroVm, MicroVmConfig},
};

use crate::{
    Outcome,
    args::RunArgs,
    failure::Failure,
    measure::{check_handler_cpu, managed_of},
};

pub(crate) fn main(args: &RunArgs) -> Outcome<ExitCode> {
    let interrupt = Interrupt::on_signals().map_err(Failure::host)?;
    check_handler_cpu(args.faults.handler_cpu)?;
    let kvm = Kvm::open().map_err(Failure::host)?;
    let vm = MicroVm::new(&kvm, config_of(args), &interrupt).map_err(Failure::of_microvm)?;
    let source = source_of(args);
    let running = vm.start(&source).map_err(Failure::of_microvm)?;
    match running.wait(Vec::new(), args.watchdog, &mut tell) {
        Ok(ending) => exit_code(ending, &source),
        Err(LoopError::Interrupted) => {
            tell("interrupted; the guest was stopped where it was");
            Ok(ExitCode::from(interrupt::exit_code()))
        }
        Err(error) => Err(Failure::host(error)),
    }
}

fn config_of(args: &RunArgs) -> MicroVmConfig {
    let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let memory = MemoryConfig {
        prefault: args.prefault.then_some(Prefault { threads }),
        numa_node: args.numa_node,
        managed: managed_of(&args.faults, args.stock),
        ..MemoryConfig::new(args.mem, args.backing.clone())
    };
    MicroVmConfig { vcpus: args.vcpus.get(), masked: args.mask_cpu.clone(), ..MicroVmConfig::new(memory) }
}

fn source_of(args: &RunArgs) -> BootSource {
    BootSource {
        initrd: args.initrd.clone(),
        command_line: args.cmdline.clone(),
        protocol: args.protocol.into(),
        ..BootSource::new(&args.kernel)
    }
}

/// What scripts see of how the guest ended.
fn exit_code(ending: Ending, source: &BootSource) -> Outcome<ExitCode> {
    match ending {
        Ending::Exited(status) => Ok(ExitCode::from(status)),
        Ending::Reset | Ending::Stopped => Ok(ExitCode::SUCCESS),
        Ending::Guest(stopped) => {
            let symbols = Symbols::read(&source.kernel);
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

/// Tells the user, if stderr takes it, while the guest goes on.
fn tell(message: &str) {
    let _lost = writeln!(io::stderr(), "underlay: {message}");
}
