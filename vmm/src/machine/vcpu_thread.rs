//! The thread of one vCPU: takes a command, enters the guest, and reports what came of it.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use guest_mem::GuestRam;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::resource::{UsageWho, getrusage},
    unistd::Pid,
};
use vmm_sys_util::eventfd::EventFd;

use super::{GuestFailure, MachineError, RunError, tsc};
use crate::{
    driver::{Command, DOORBELL, Outcome, VcpuArea},
    kvm::{Descriptor, Exit, Snapshot, Stats, StatsError, StopHandle, StopSignal, Vcpu},
    report::KvmFaults,
};

/// What came of one command on one vCPU.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// What the guest left in its mailbox.
    pub outcome: Outcome,
    /// How long KVM_RUN took, by the host's clock, in nanoseconds: the yardstick of the guest's own time.
    pub kvm_run_ns: u64,
    /// What the host's time stamp counter showed just before KVM_RUN, in ticks.
    pub entered_tsc: u64,
    /// What it showed right after.
    pub left_tsc: u64,
    /// The faults that KVM took for this vCPU meanwhile, the doorbell's among them.
    pub kvm: KvmFaults,
    /// The faults that the host's kernel took in this thread meanwhile.
    pub host: HostThreadFaults,
}

/// The page faults of one host thread, as getrusage counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostThreadFaults {
    /// Without input or output.
    pub minor: u64,
    /// With.
    pub major: u64,
}

/// The handle of the thread. Dropping it stops the vCPU and waits for the thread to end.
#[derive(Debug)]
pub(super) struct VcpuThread {
    id: u32,
    commands: Option<Sender<Command>>,
    results: Receiver<Result<Done, RunError>>,
    stop: StopHandle,
    stop_signal: StopSignal,
    thread: Option<JoinHandle<()>>,
}

/// Wakes the control side when the thread ends, also by a panic: it would wait for a result for ever.
struct RaiseOnDrop(Arc<EventFd>);

impl Drop for RaiseOnDrop {
    fn drop(&mut self) {
        // It fails only when the event is raised already.
        let _already = self.0.write(1);
    }
}

/// What lives on the thread.
struct Runner {
    id: u32,
    vcpu: Vcpu,
    area: VcpuArea,
    memory: Arc<GuestRam>,
    counters: FaultCounters,
}

impl VcpuThread {
    pub(super) fn spawn(
        id: u32,
        vcpu: Vcpu,
        area: VcpuArea,
        memory: Arc<GuestRam>,
        cpu: Option<usize>,
        stop_signal: StopSignal,
        completion: Arc<EventFd>,
    ) -> Result<Self, MachineError> {
        let (commands, inbox) = mpsc::channel();
        let (outbox, results) = mpsc::channel();
        let stop = vcpu.stop_handle();
        let counters = FaultCounters::open(vcpu.stats()?)?;
        let mut runner = Runner { id, vcpu, area, memory, counters };
        let thread = thread::Builder::new()
            .name(format!("vcpu{id}"))
            .spawn(move || {
                let _ended = RaiseOnDrop(Arc::clone(&completion));
                let pinned = cpu.map_or(Ok(()), pin_to);
                while let Ok(command) = inbox.recv() {
                    let result = pinned.map_err(RunError::Pin).and_then(|()| runner.execute(&command));
                    // Nobody listens any more when the machine is being dropped.
                    if outbox.send(result).is_err() || completion.write(1).is_err() {
                        break;
                    }
                }
            })
            .map_err(MachineError::Threads)?;
        Ok(Self { id, commands: Some(commands), results, stop, stop_signal, thread: Some(thread) })
    }

    /// Hands over a command; the thread starts at once.
    pub(super) fn start(&self, command: Command) -> Result<(), RunError> {
        let accepted = self.commands.as_ref().is_some_and(|commands| commands.send(command).is_ok());
        if accepted { Ok(()) } else { Err(RunError::ThreadGone { vcpu: self.id }) }
    }

    /// The result of the last command, once, if there is one by now.
    pub(super) fn take_result(&self) -> Option<Result<Done, RunError>> {
        match self.results.try_recv() {
            Ok(result) => Some(result),
            Err(mpsc::TryRecvError::Empty) => None,
            Err(mpsc::TryRecvError::Disconnected) => Some(Err(RunError::ThreadGone { vcpu: self.id })),
        }
    }

    /// Asks the vCPU to leave the guest for good.
    pub(super) fn stop(&self) {
        if let Some(thread) = &self.thread {
            self.stop.stop(self.stop_signal, thread);
        }
    }
}

impl Drop for VcpuThread {
    fn drop(&mut self) {
        self.stop();
        // Ends the thread's loop when it has left the guest.
        self.commands = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of vCPU {} panicked", self.id);
        }
    }
}

impl Runner {
    fn execute(&mut self, command: &Command) -> Result<Done, RunError> {
        command.post(self.memory.view(), self.area.mailbox).map_err(RunError::Mailbox)?;
        self.counters.start()?;
        let host_before = HostThreadFaults::now();

        let start = Instant::now();
        let entered_tsc = tsc::now();
        let exit = loop {
            match self.vcpu.run() {
                // A signal that was not meant for the vCPU: go on.
                Ok(Exit::Interrupted) if !self.vcpu.stop_handle().is_requested() => {}
                exit => break exit,
            }
        };
        let left_tsc = tsc::now();
        let kvm_run_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);

        let host = HostThreadFaults::now().since(host_before);
        let kvm = self.counters.grown()?;
        match exit {
            Ok(Exit::MmioWrite { address: DOORBELL, .. }) => {
                let outcome =
                    Outcome::read(self.memory.view(), self.area.mailbox).map_err(RunError::Mailbox)?;
                Ok(Done { outcome, kvm_run_ns, entered_tsc, left_tsc, kvm, host })
            }
            Ok(Exit::Interrupted) => Err(RunError::Interrupted),
            Ok(exit) => Err(self.failure(command, exit)),
            Err(source) => Err(RunError::Kvm { vcpu: self.id, source }),
        }
    }

    fn failure(&self, command: &Command, exit: Exit) -> RunError {
        match self.vcpu.registers() {
            Ok(registers) => {
                let failure = GuestFailure { vcpu: self.id, exit, command: *command, registers };
                RunError::Guest(Box::new(failure))
            }
            Err(source) => RunError::Kvm { vcpu: self.id, source },
        }
    }
}

/// A vCPU's fault statistics, read before and after a command.
struct FaultCounters {
    stats: Stats,
    /// In the order of the fields of [`KvmFaults`].
    counters: [Descriptor; 5],
    before: Snapshot,
    after: Snapshot,
}

impl FaultCounters {
    fn open(stats: Stats) -> Result<Self, StatsError> {
        let counters = [
            stats.require("pf_taken")?,
            stats.require("pf_fixed")?,
            stats.require("pf_spurious")?,
            stats.require("pf_emulate")?,
            stats.require("pf_guest")?,
        ];
        Ok(Self { stats, counters, before: Snapshot::default(), after: Snapshot::default() })
    }

    fn start(&mut self) -> Result<(), StatsError> {
        self.stats.read(&mut self.before)
    }

    /// What they grew by since the start.
    fn grown(&mut self) -> Result<KvmFaults, StatsError> {
        self.stats.read(&mut self.after)?;
        let [pf_taken, pf_fixed, pf_spurious, pf_emulate, pf_guest] = self
            .counters
            .each_ref()
            .map(|counter| self.after.value(counter).saturating_sub(self.before.value(counter)));
        Ok(KvmFaults { pf_taken, pf_fixed, pf_spurious, pf_emulate, pf_guest })
    }
}

impl HostThreadFaults {
    /// Of the calling thread, since it started.
    pub(crate) fn now() -> Self {
        let count = |value: i64| u64::try_from(value).unwrap_or(0);
        getrusage(UsageWho::RUSAGE_THREAD).map_or_else(
            |_| Self::default(),
            |usage| Self { minor: count(usage.minor_page_faults()), major: count(usage.major_page_faults()) },
        )
    }

    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            minor: self.minor.saturating_sub(before.minor),
            major: self.major.saturating_sub(before.major),
        }
    }
}

/// Keeps the calling thread on the host's CPU `cpu`.
pub(crate) fn pin_to(cpu: usize) -> Result<(), PinError> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .map_err(|errno| PinError { cpu, errno })
}

/// A vCPU thread could not be pinned.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("cannot pin a vCPU thread to CPU {cpu}: use CPUs that this host has and this process may use")]
pub struct PinError {
    cpu: usize,
    #[source]
    errno: nix::errno::Errno,
}
