//! How a subcommand fails: whose fault it is, and what the user reads.

use std::{
    error::Error,
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use guest_mem::{CreateRamError, NumaError, UnavailableReason};
use vmm::{
    boot::BootError,
    interrupt,
    kvm::VmError,
    machine::{MachineError, RunError},
    measure::{MeasureError, ModelError, SampleError},
    memory::CreateMemoryError,
    microvm::MicroVmError,
};

/// Why a subcommand ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The user asked for something that makes no sense or cannot be: exit code 2.
    User(anyhow::Error),
    /// The host could not do it: exit code 1.
    Host(anyhow::Error),
    /// SIGINT or SIGTERM: exit code 130 or 143.
    Interrupted,
}

impl Failure {
    pub(crate) fn user(error: impl Error + Send + Sync + 'static) -> Self {
        Self::User(error.into())
    }

    pub(crate) fn host(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Host(error.into())
    }

    /// The failure of a measurement or a machine: whose fault it is, its error says.
    pub(crate) fn of_measure(error: MeasureError) -> Self {
        let MeasureError::Sample { source, .. } = &error else {
            return Self::Interrupted;
        };
        match &**source {
            SampleError::Machine(machine) if is_users(machine) => Self::user(error),
            SampleError::Run(RunError::Pin(_)) | SampleError::Model(ModelError::KernelResolved(_)) => {
                Self::user(error)
            }
            _ => Self::host(error),
        }
    }

    /// The failure of making a machine.
    pub(crate) fn of_machine(error: MachineError) -> Self {
        match error {
            MachineError::Ram(CreateRamError::Interrupted) => Self::Interrupted,
            error if is_users(&error) => Self::user(error),
            error => Self::host(error),
        }
    }

    /// The failure of making or starting a microVM.
    pub(crate) fn of_microvm(error: MicroVmError) -> Self {
        match &error {
            MicroVmError::Memory(CreateMemoryError::Ram(CreateRamError::Interrupted)) => Self::Interrupted,
            MicroVmError::Memory(CreateMemoryError::Ram(ram)) if is_users_ram(ram) => Self::user(error),
            MicroVmError::Boot(BootError::Memory(_)) => Self::host(error),
            MicroVmError::TooManyVcpus { .. }
            | MicroVmError::NoVcpu
            | MicroVmError::TooManyDevices { .. }
            | MicroVmError::Boot(_) => Self::user(error),
            _ => Self::host(error),
        }
    }

    /// The failure of writing to stdout.
    pub(crate) fn of_stdout(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => {
                Self::Host(anyhow::anyhow!("stdout was closed before everything was written to it"))
            }
            _ => Self::Host(anyhow::Error::new(error).context("cannot write to stdout")),
        }
    }

    /// The failure of writing touches while they come, which is always to a file.
    pub(crate) fn of_touches(error: io::Error) -> Self {
        Self::Host(anyhow::Error::new(error).context("cannot write the touches"))
    }

    /// Tells the user, on stderr, and says with which code to exit.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Self::User(error) => {
                tell(chain(error));
                ExitCode::from(2)
            }
            Self::Host(error) => {
                tell(chain(error));
                ExitCode::from(1)
            }
            Self::Interrupted => {
                tell("interrupted; there is no result");
                ExitCode::from(interrupt::exit_code())
            }
        }
    }
}

/// Tells the user, if stderr takes it: there is nobody else to tell that it does not.
fn tell(message: impl fmt::Display) {
    let _lost = writeln!(io::stderr(), "underlay: {message}");
}

/// The error and its causes, each once: a transparent error repeats its source.
fn chain(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = error.chain().map(ToString::to_string).collect();
    parts.dedup();
    parts.join(": ")
}

/// Whether other arguments would have made the machine possible on this same host.
fn is_users(error: &MachineError) -> bool {
    match error {
        MachineError::Layout(_)
        | MachineError::Vm(VmError::TooManyVcpus { .. })
        | MachineError::NoGigabytePages => true,
        MachineError::Ram(error) => is_users_ram(error),
        _ => false,
    }
}

/// Whether other arguments would have made the RAM possible on this same host.
fn is_users_ram(error: &CreateRamError) -> bool {
    match error {
        CreateRamError::File(_)
        | CreateRamError::GuestRange(_)
        | CreateRamError::NoAddressSpace { .. }
        | CreateRamError::PrefaultBeyondMemory { .. } => true,
        CreateRamError::Unavailable(unavailable) => is_users_choice(&unavailable.reason),
        CreateRamError::Numa(error) => matches!(
            error,
            NumaError::NoSuchNode { .. }
                | NumaError::NoMemory { .. }
                | NumaError::Unsupported
                | NumaError::GuestMemfd
        ),
        _ => false,
    }
}

/// Whether a backing is out of reach because of what was asked, not because of how the host is set up.
pub(crate) fn is_users_choice(reason: &UnavailableReason) -> bool {
    matches!(
        reason,
        UnavailableReason::UnalignedSize { .. }
            | UnavailableReason::LargerThanRam { .. }
            | UnavailableReason::File(_)
    )
}
