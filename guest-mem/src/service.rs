//! The threads that resolve the faults of a managed guest RAM, and the one that watches them.
//!
//! ```text
//!   vCPU              kernel                handler                         supervisor
//!   touches a page    queues an event       reads it, notes it in its
//!   sleeps                                  record
//!                                           Mm::fault: entry, host, wake
//!   goes on                                 strikes it off the record
//!
//!                                           panics, or its filler stalls    gives the fill up,
//!                                                                           wakes what the record says,
//!                                                                           starts another handler
//!   faults again      queues a new event    (the other one) reads it
//! ```
//! Nothing that a handler held is needed to go on: entries are changed under page-table locks that no filler is called
//! under, and an event that was read and not resolved is in the record until it is.
//!
//! Handlers never touch guest memory through the window: they would wait for themselves. [`is_handler`] tells them, and
//! debug builds check it where guest memory is accessed.

mod handler;
mod record;
mod supervisor;
mod trace;

pub use handler::Waiting;
pub use trace::FaultTrace;

pub(crate) use handler::is_handler;

use std::{io, num::NonZeroUsize, sync::Arc, thread::JoinHandle, time::Duration};

use mmu_notifier::sync::{
    Condvar, Mutex, MutexGuard, Tally,
    atomic::{AtomicBool, Ordering::Relaxed},
    lock, wait_at_most,
};

use crate::{
    Mm,
    host::{StopEvent, Userfaultfd},
};
use handler::Handler;

/// How faults are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceConfig {
    /// Threads that resolve faults.
    pub handlers: NonZeroUsize,
    /// What they do while there are none.
    pub waiting: Waiting,
    /// How long a filler may take for one piece before its fill is given to another handler.
    pub deadline: Duration,
    /// The processor that the handlers are bound to, if they are.
    pub cpu: Option<usize>,
    /// How many of the latest faults each handler keeps the times of; 0 for none.
    pub trace: usize,
}

impl Default for ServiceConfig {
    /// One handler that sleeps while there is nothing to do, and fillers that have a second.
    fn default() -> Self {
        Self {
            handlers: NonZeroUsize::MIN,
            waiting: Waiting::Sleep,
            deadline: Duration::from_secs(1),
            cpu: None,
            trace: 0,
        }
    }
}

/// The threads of one guest RAM. Dropping it stops and joins them; those whose fillers are stalled are left to end by
/// themselves, and hold nothing of the RAM meanwhile.
#[derive(Debug)]
pub(crate) struct Service {
    shared: Arc<Shared>,
    supervisor: Option<JoinHandle<()>>,
}

/// What all threads of a service share.
#[derive(Debug)]
struct Shared {
    mm: Arc<Mm>,
    uffd: Arc<Userfaultfd>,
    /// The host address of the window's first byte.
    window: u64,
    config: ServiceConfig,
    stop: StopEvent,
    /// Set once, before `stop`; read by handlers that spin. It orders nothing.
    stopping: AtomicBool,
    /// The handlers there are. A leaf.
    crew: Mutex<Vec<Handler>>,
    /// The supervisor sleeps here, with `crew`.
    changed: Condvar,
    /// Handlers that were replaced.
    replaced: Tally,
}

impl Service {
    /// Starts to serve the faults of `mm` that come to `uffd`, for a window that begins at the host address `window`.
    pub(crate) fn start(
        mm: Arc<Mm>,
        uffd: Arc<Userfaultfd>,
        window: u64,
        config: ServiceConfig,
    ) -> io::Result<Self> {
        let stop = StopEvent::new(uffd.injector())?;
        let shared = Arc::new(Shared {
            mm,
            uffd,
            window,
            config,
            stop,
            stopping: AtomicBool::new(false),
            crew: Mutex::default(),
            changed: Condvar::new(),
            replaced: Tally::new(),
        });
        // Whatever was started stops when this is dropped.
        let mut service = Self { shared, supervisor: None };
        for _ in 0..config.handlers.get() {
            let handler = Handler::spawn(&service.shared)?;
            service.shared.crew().push(handler);
        }
        service.supervisor = Some(supervisor::spawn(&service.shared)?);
        Ok(service)
    }

    /// Handlers that panicked or stalled, and were replaced.
    pub(crate) fn replaced(&self) -> u64 {
        self.shared.replaced.get()
    }

    /// The times of the latest faults, handler by handler, and none kept any more.
    pub(crate) fn take_trace(&self) -> Vec<FaultTrace> {
        self.shared.crew().iter().flat_map(Handler::take_trace).collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Relaxed);
        self.shared.stop.ask();
        self.shared.wake_supervisor();
        if let Some(supervisor) = self.supervisor.take()
            && supervisor.join().is_err()
        {
            log::error!("the supervisor of the fault handlers panicked");
        }
        let handlers = std::mem::take(&mut *self.shared.crew());
        for handler in handlers {
            handler.join(self.shared.config.deadline);
        }
    }
}

impl Shared {
    fn crew(&self) -> MutexGuard<'_, Vec<Handler>> {
        lock(&self.crew)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Something has happened to the crew.
    fn wake_supervisor(&self) {
        // Not between its look at the crew and its sleep.
        let _crew = self.crew();
        self.changed.notify_all();
    }

    /// Sleeps until something has happened to the crew, at most for `at_most`.
    fn sleep<'a>(
        &'a self,
        crew: MutexGuard<'a, Vec<Handler>>,
        at_most: Duration,
    ) -> MutexGuard<'a, Vec<Handler>> {
        wait_at_most(&self.changed, &self.crew, crew, at_most)
    }
}
