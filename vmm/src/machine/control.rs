//! The control side: one event loop that waits for vCPUs and for the user.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, Mutex},
};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::EventFd;

use super::RunError;
use crate::interrupt::Interrupt;

/// Waits for vCPUs to finish a command, and for the user's wish to stop.
pub(super) struct Control {
    manager: EventManager<Arc<Mutex<Watch>>>,
    completion: Arc<EventFd>,
    interrupt: Interrupt,
}

/// What the loop watches. An eventfd that is never read would wake it for ever; the interrupt's is meant to.
struct Watch {
    completion: Arc<EventFd>,
    interrupt: RawFd,
}

impl Control {
    pub(super) fn new(interrupt: &Interrupt) -> io::Result<Self> {
        let completion = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let mut manager = EventManager::new().map_err(io::Error::other)?;
        let watch = Watch { completion: Arc::clone(&completion), interrupt: interrupt.as_raw_fd() };
        manager.add_subscriber(Arc::new(Mutex::new(watch)));
        Ok(Self { manager, completion, interrupt: interrupt.clone() })
    }

    /// What a vCPU thread raises when it has finished a command.
    pub(super) fn completion(&self) -> Arc<EventFd> {
        Arc::clone(&self.completion)
    }

    /// Sleeps until at least one vCPU has finished.
    pub(super) fn wait(&mut self) -> Result<(), RunError> {
        self.manager.run().map_err(|error| RunError::Control(io::Error::other(error)))?;
        if self.interrupt.is_raised() { Err(RunError::Interrupted) } else { Ok(()) }
    }
}

impl MutEventSubscriber for Watch {
    fn init(&mut self, ops: &mut EventOps) {
        for fd in [self.completion.as_raw_fd(), self.interrupt] {
            if let Err(error) = ops.add(Events::new_raw(fd, EventSet::IN)) {
                log::error!("cannot watch descriptor {fd}: {error:?}");
            }
        }
    }

    fn process(&mut self, events: Events, _: &mut EventOps) {
        if events.fd() == self.completion.as_raw_fd() {
            // Nothing to read means that another wake-up has taken it along; the results are looked at either way.
            let _taken = self.completion.read();
        }
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("completion", &self.completion).finish_non_exhaustive()
    }
}
