//! A microVM that runs: the one thread on which its devices are served, and on which the user is waited for.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};

use super::{Ending, Serial, Whereabouts, end::End, vcpus::Vcpus, watchdog::Watchdog};
use crate::{
    boot::Symbols,
    interrupt::Interrupt,
    kvm::Vm,
    legacy::{
        Console, Input, Keyboard,
        terminal::{RawTerminal, Standing, standing},
    },
    memory::Memory,
    virtio::DeviceEvents,
};

/// Somebody whom the event loop serves.
pub type Subscriber = Box<dyn MutEventSubscriber + Send>;

/// Events that are taken from the kernel at a time.
const READY_EVENTS: usize = 32;

/// A microVM that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    // In the order of teardown.
    vcpus: Arc<Vcpus>,
    devices: Vec<DeviceEvents>,
    console: Arc<Console>,
    serial: Arc<Mutex<Serial>>,
    takes_input: bool,
    keyboard: Arc<Mutex<Keyboard>>,
    end: Arc<End>,
    kernel: PathBuf,
    interrupt: Interrupt,
    _vm: Vm,
    memory: Arc<Memory>,
}

/// What a running microVM is made of.
pub(super) struct Parts {
    pub(super) vcpus: Vcpus,
    pub(super) devices: Vec<DeviceEvents>,
    pub(super) memory: Arc<Memory>,
    pub(super) console: Arc<Console>,
    pub(super) serial: Arc<Mutex<Serial>>,
    pub(super) takes_input: bool,
    pub(super) keyboard: Arc<Mutex<Keyboard>>,
    pub(super) end: Arc<End>,
    pub(super) kernel: PathBuf,
    pub(super) interrupt: Interrupt,
    pub(super) vm: Vm,
}

/// Asks things of a running microVM, from any thread. Cheap to clone; of no effect once it has ended.
#[derive(Clone, Debug)]
pub struct Handle {
    vcpus: Arc<Vcpus>,
    keyboard: Arc<Mutex<Keyboard>>,
    end: Arc<End>,
    memory: Arc<Memory>,
}

/// Why a microVM's events could not be waited for.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// The user asked to stop, by a signal.
    #[error("interrupted; the guest was stopped where it was")]
    Interrupted,
    /// epoll or an event failed.
    #[error("the microVM's event loop failed")]
    Failed(#[source] io::Error),
}

impl Running {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            vcpus: Arc::new(parts.vcpus),
            devices: parts.devices,
            console: parts.console,
            serial: parts.serial,
            takes_input: parts.takes_input,
            keyboard: parts.keyboard,
            end: parts.end,
            kernel: parts.kernel,
            interrupt: parts.interrupt,
            _vm: parts.vm,
            memory: parts.memory,
        }
    }

    /// What other threads ask with.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            vcpus: Arc::clone(&self.vcpus),
            keyboard: Arc::clone(&self.keyboard),
            end: Arc::clone(&self.end),
            memory: Arc::clone(&self.memory),
        }
    }

    /// The kernel that it was started with.
    #[must_use]
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// Serves the devices, standard input and `others` until the guest ends, and says how it did. The terminal is the guest's
    /// until then. With `patience`, says on stderr where a guest is that has been silent for so long.
    ///
    /// # Errors
    /// [`LoopError`]; the guest is stopped then.
    pub fn wait(
        mut self,
        others: Vec<Subscriber>,
        patience: Option<Duration>,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Ending, LoopError> {
        let failed = |error: event_manager::Error| LoopError::Failed(io::Error::other(error));
        let mut manager: EventManager<Subscriber> =
            EventManager::new_with_capacity(READY_EVENTS).map_err(failed)?;
        manager.add_subscriber(Box::new(Waits([self.end.as_raw_fd(), self.interrupt.as_raw_fd()])));
        for device in self.devices.drain(..) {
            manager.add_subscriber(Box::new(device));
        }
        for other in others {
            manager.add_subscriber(other);
        }
        let terminal =
            if self.takes_input { self.take_input(&mut manager).map_err(LoopError::Failed)? } else { None };
        let mut watchdog = patience.map(Watchdog::new);
        let mut symbols = None;
        let ending = loop {
            let timeout = watchdog.as_ref().map_or(-1, |dog| milliseconds(dog.due_in(Instant::now())));
            manager.run_with_timeout(timeout).map_err(failed)?;
            if let Some(ending) = self.end.take() {
                break ending;
            }
            if self.interrupt.is_raised() {
                return Err(LoopError::Interrupted);
            }
            if let Some(watchdog) = &mut watchdog
                && watchdog.is_silent(self.console.written(), Instant::now())
            {
                let symbols = symbols.get_or_insert_with(|| Symbols::read(&self.kernel));
                tell(&watchdog.report(&self.vcpus.whereabouts(), symbols));
            }
        };
        self.vcpus.stop();
        drop(terminal);
        Ok(ending)
    }

    /// Hands standard input to the guest, as far as it is this process's to read.
    fn take_input(&self, manager: &mut EventManager<Subscriber>) -> io::Result<Option<RawTerminal>> {
        let standing = standing();
        if standing == Standing::Background {
            log::info!("the terminal is somebody else's: the guest gets no input");
            return Ok(None);
        }
        let is_terminal = standing == Standing::Terminal;
        let end = Arc::clone(&self.end);
        let quit = Box::new(move || end.set(Ending::Stopped));
        let (serial, console) = (Arc::clone(&self.serial), Arc::clone(&self.console));
        let terminal = is_terminal.then(RawTerminal::enter).transpose()?;
        manager.add_subscriber(Box::new(Input::new(serial, console, is_terminal, quit)));
        Ok(terminal)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Others may have handles.
        self.vcpus.stop();
    }
}

impl Handle {
    /// Takes every vCPU out of the guest; returns when all are out.
    pub fn pause(&self) {
        self.vcpus.pause();
    }

    /// Lets paused vCPUs go on.
    pub fn resume(&self) {
        self.vcpus.resume();
    }

    /// Presses Ctrl, Alt and Del. Returns whether the guest listens to its keyboard.
    #[must_use]
    pub fn press_ctrl_alt_del(&self) -> bool {
        self.keyboard.lock().unwrap_or_else(PoisonError::into_inner).press_ctrl_alt_del()
    }

    /// Ends the guest where it is.
    pub fn stop(&self) {
        self.end.set(Ending::Stopped);
    }

    /// Where each vCPU is, by number.
    #[must_use]
    pub fn whereabouts(&self) -> Vec<Whereabouts> {
        self.vcpus.whereabouts()
    }

    /// The guest's memory.
    #[must_use]
    pub const fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

/// Wakes the loop when the run has ended, or is to end.
struct Waits([RawFd; 2]);

impl MutEventSubscriber for Waits {
    fn init(&mut self, ops: &mut EventOps) {
        for fd in self.0 {
            if let Err(error) = ops.add(Events::new_raw(fd, EventSet::IN)) {
                log::error!("cannot watch descriptor {fd}: {error:?}");
            }
        }
    }

    // Who runs the loop looks after each round.
    fn process(&mut self, _: Events, _: &mut EventOps) {}
}

/// Rounded up, so that what is due then is due.
fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis().saturating_add(1)).unwrap_or(i32::MAX)
}
