//! From the thread that starts a microVM to the one that waits for its end.

use std::{
    io,
    os::fd::AsRawFd,
    sync::{Arc, Mutex, PoisonError},
};

use vmm_sys_util::{
    epoll::{ControlOperation, Epoll, EpollEvent, EventSet},
    eventfd::EventFd,
};

use crate::{interrupt::Interrupt, microvm::Running};

/// Where a microVM that was started is left. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Handover(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// A leaf.
    started: Mutex<Option<Running>>,
    event: EventFd,
}

/// Why there is no microVM.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The user asked to stop, by a signal, before one was started.
    #[error("interrupted before a microVM was started")]
    Interrupted,
    /// epoll failed.
    #[error("cannot wait for a microVM to be started")]
    Failed(#[from] io::Error),
}

impl Handover {
    /// Nothing was started yet.
    ///
    /// # Errors
    /// What `eventfd` returned.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self(Arc::new(Shared { started: Mutex::new(None), event })))
    }

    /// Leaves `running`.
    pub(super) fn give(&self, running: Running) {
        *self.0.started.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
        // It fails only when the event is raised already.
        let _already = self.0.event.write(1);
    }

    /// Takes the microVM; waits until there is one.
    ///
    /// # Errors
    /// [`HandoverError`].
    pub fn wait(&self, interrupt: &Interrupt) -> Result<Running, HandoverError> {
        let take = || self.0.started.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(running) = take() {
            return Ok(running);
        }
        let epoll = Epoll::new()?;
        for fd in [self.0.event.as_raw_fd(), interrupt.as_raw_fd()] {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0))?;
        }
        loop {
            match epoll.wait(-1, &mut [EpollEvent::default()]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                waited => drop(waited?),
            }
            if let Some(running) = take() {
                return Ok(running);
            }
            if interrupt.is_raised() {
                return Err(HandoverError::Interrupted);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_ends_the_wait() {
        let interrupt = Interrupt::new().unwrap();
        interrupt.raise();
        let waited = Handover::new().unwrap().wait(&interrupt);
        assert!(matches!(waited, Err(HandoverError::Interrupted)));
    }
}
