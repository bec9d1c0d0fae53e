//! The threads of the vCPUs, and how the rest of the VMM has them run, pause, tell where they are, and end.
//!
//! ```text
//! who asks                                  vCPU thread
//! under the mode's lock:                    in KVM_RUN
//!   note what is wanted
//!   request a stop: flag, signal ---------> KVM_RUN returns
//!                                           under the mode's lock:
//!                                             take the request back
//!                                             look at what is wanted, do it
//! ```
//! A request that comes while the thread holds the lock is noted after, with its own signal: none is lost.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, WaitTimeoutResult},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Ending, GuestStopped, bus::Bus, end::End};
use crate::{
    kvm::{Exit, Registers, StopHandle, StopSignal, Vcpu},
    memory::Memory,
};

/// How long a vCPU that is asked where it is has to answer: longer than KVM is busy on its own.
const ANSWER: Duration = Duration::from_secs(1);

/// All vCPUs of a running microVM. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Vcpus {
    threads: Vec<VcpuThread>,
    signal: StopSignal,
}

#[derive(Debug)]
struct VcpuThread {
    stop: StopHandle,
    shared: Arc<Shared>,
    /// Taken to be joined. A leaf but for the mode, which is taken under it.
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    /// A leaf.
    mode: Mutex<Mode>,
    changed: Condvar,
    /// Readable from a request for a stop until that is taken back: for who waits for something else too.
    attention: Arc<EventFd>,
}

#[derive(Debug, Default)]
struct Mode {
    wanted: Wanted,
    is_paused: bool,
    has_ended: bool,
    where_is_it: Question,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wanted {
    #[default]
    Run,
    Pause,
    Stop,
}

#[derive(Clone, Copy, Debug, Default)]
enum Question {
    #[default]
    None,
    Asked,
    Answered(Option<Registers>),
}

/// Where a vCPU is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Whereabouts {
    /// In the guest, with these registers.
    Guest(Registers),
    /// It is paused, with these registers if KVM tells them.
    Unknown,
    /// It does not leave KVM: the guest has it do something that takes for ever.
    Stuck,
    /// Its thread has ended.
    Ended,
}

/// Tells that the thread has ended, also by a panic: somebody may be waiting for it to pause.
struct EndOnDrop {
    id: u32,
    shared: Arc<Shared>,
    end: Arc<End>,
}

impl Vcpus {
    /// Lets `vcpus` run, each on its own thread.
    pub(super) fn start(
        vcpus: Vec<Vcpu>,
        signal: StopSignal,
        end: &Arc<End>,
        memory: &Arc<Memory>,
        bus: impl Fn(Arc<EventFd>) -> Bus,
    ) -> io::Result<Self> {
        let mut this = Self { threads: Vec::with_capacity(vcpus.len()), signal };
        for (id, vcpu) in (0..).zip(vcpus) {
            let shared = Arc::new(Shared::new()?);
            let ended = EndOnDrop { id, shared: Arc::clone(&shared), end: Arc::clone(end) };
            let stop = vcpu.stop_handle();
            let bus = bus(Arc::clone(&shared.attention));
            let mut runner =
                Runner { id, vcpu, bus, shared: Arc::clone(&shared), memory: Arc::clone(memory) };
            let thread = thread::Builder::new().name(format!("vcpu{id}")).spawn(move || {
                let ended = ended;
                if let Some(ending) = runner.run() {
                    ended.end.set(ending);
                }
            })?;
            this.threads.push(VcpuThread { stop, shared, thread: Mutex::new(Some(thread)) });
        }
        Ok(this)
    }

    /// Takes every vCPU out of the guest; returns when all are out.
    pub(super) fn pause(&self) {
        self.threads.iter().for_each(|vcpu| vcpu.want(Wanted::Pause, self.signal));
        for vcpu in &self.threads {
            vcpu.shared.wait_until(|mode| mode.is_paused || mode.has_ended || mode.wanted != Wanted::Pause);
        }
    }

    /// Lets paused vCPUs go on.
    pub(super) fn resume(&self) {
        self.threads.iter().for_each(|vcpu| vcpu.want(Wanted::Run, self.signal));
    }

    /// Ends every vCPU; returns when all threads have ended.
    pub(super) fn stop(&self) {
        self.threads.iter().for_each(|vcpu| vcpu.want(Wanted::Stop, self.signal));
        for (id, vcpu) in self.threads.iter().enumerate() {
            let thread = vcpu.lock_thread().take();
            if thread.is_some_and(|thread| thread.join().is_err()) {
                log::error!("the thread of vCPU {id} panicked");
            }
        }
    }

    /// Where each vCPU is, by number.
    pub(super) fn whereabouts(&self) -> Vec<Whereabouts> {
        self.threads.iter().for_each(|vcpu| vcpu.ask(self.signal));
        self.threads.iter().map(|vcpu| vcpu.shared.answer()).collect()
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.stop();
    }
}

impl VcpuThread {
    fn lock_thread(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn want(&self, wanted: Wanted, signal: StopSignal) {
        let thread = self.lock_thread();
        let mut mode = self.shared.lock();
        // What was stopped stays so.
        if mode.wanted != Wanted::Stop {
            mode.wanted = wanted;
        }
        if let Some(thread) = thread.as_ref().filter(|_| wanted != Wanted::Run) {
            self.request_stop(signal, thread);
        }
        drop(mode);
        self.shared.changed.notify_all();
    }

    fn ask(&self, signal: StopSignal) {
        let thread = self.lock_thread();
        let mut mode = self.shared.lock();
        mode.where_is_it = Question::Asked;
        if let Some(thread) = thread.as_ref() {
            self.request_stop(signal, thread);
        }
        drop(mode);
        self.shared.changed.notify_all();
    }

    /// Takes the thread out of KVM_RUN and out of any waiting. The mode's lock is held.
    fn request_stop(&self, signal: StopSignal, thread: &JoinHandle<()>) {
        self.stop.stop(signal, thread);
        // It fails only when the event is raised already.
        let _already = self.shared.attention.write(1);
    }
}

impl Shared {
    fn new() -> io::Result<Self> {
        let attention = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self { mode: Mutex::default(), changed: Condvar::new(), attention: Arc::new(attention) })
    }

    fn lock(&self) -> MutexGuard<'_, Mode> {
        self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until(&self, is_so: impl Fn(&Mode) -> bool) {
        let waiting = self.changed.wait_while(self.lock(), |mode| !is_so(mode));
        drop(waiting.unwrap_or_else(PoisonError::into_inner));
    }

    fn answer(&self) -> Whereabouts {
        let asked = |mode: &mut Mode| matches!(mode.where_is_it, Question::Asked) && !mode.has_ended;
        let waiting = self.changed.wait_timeout_while(self.lock(), ANSWER, asked);
        let (mut mode, _): (_, WaitTimeoutResult) = waiting.unwrap_or_else(PoisonError::into_inner);
        match std::mem::take(&mut mode.where_is_it) {
            Question::Answered(Some(registers)) => Whereabouts::Guest(registers),
            Question::Answered(None) => Whereabouts::Unknown,
            Question::None | Question::Asked if mode.has_ended => Whereabouts::Ended,
            Question::None | Question::Asked => Whereabouts::Stuck,
        }
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.shared.lock().has_ended = true;
        self.shared.changed.notify_all();
        if thread::panicking() {
            self.end.set(Ending::Panicked { vcpu: self.id });
        }
    }
}

/// What lives on the thread.
struct Runner {
    id: u32,
    vcpu: Vcpu,
    bus: Bus,
    shared: Arc<Shared>,
    memory: Arc<Memory>,
}

impl Runner {
    /// Runs the guest to the end of this vCPU; says how it ended, unless somebody else did that.
    fn run(&mut self) -> Option<Ending> {
        loop {
            match self.vcpu.run_with(&mut self.bus) {
                Ok(Exit::Interrupted) => {
                    if self.is_to_end() {
                        return None;
                    }
                    // What had no room until then.
                    self.bus.flush();
                }
                Ok(Exit::Device) => return None,
                Ok(exit) => {
                    let stopped = GuestStopped::find_out(self.id, exit, &self.vcpu, self.memory.view());
                    return Some(Ending::Guest(Box::new(stopped)));
                }
                Err(source) => return Some(Ending::Kvm { vcpu: self.id, source }),
            }
        }
    }

    /// Does what is wanted of this vCPU. Whether that is to end.
    fn is_to_end(&self) -> bool {
        let mut mode = self.shared.lock();
        loop {
            self.vcpu.stop_handle().clear();
            // It fails only when the event is not raised.
            let _none = self.shared.attention.read();
            if matches!(mode.where_is_it, Question::Asked) {
                mode.where_is_it = Question::Answered(self.vcpu.registers().ok());
                self.shared.changed.notify_all();
            }
            match mode.wanted {
                Wanted::Run => {
                    mode.is_paused = false;
                    return false;
                }
                Wanted::Stop => return true,
                Wanted::Pause => {}
            }
            if !mode.is_paused {
                mode.is_paused = true;
                self.vcpu.note_pause();
                self.shared.changed.notify_all();
            }
            mode = self.shared.changed.wait(mode).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
