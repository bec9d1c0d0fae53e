//! One thread that resolves faults.

use std::{
    cell::Cell,
    hint, io,
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mmu_notifier::{
    PAGE_SIZE,
    sync::atomic::{
        AtomicBool,
        Ordering::{AcqRel, Acquire, Release},
    },
};

use super::{
    Shared,
    record::{BATCH, Record},
    trace::{FaultTrace, Trace},
};
use crate::{
    Gfn, Mm, host,
    host::{Event, FaultKind, Operation},
    mm::{self, Cause, FillWatch, Resolved, RunningFill, Scratch, Ticket},
};

/// What a handler does while there is no fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It sleeps: the next fault waits until it is awake.
    Sleep,
    /// It asks again and again, for so long since the last fault; then it sleeps. Takes a processor of its own.
    Spin(Duration),
}

thread_local! {
    static IS_HANDLER: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread resolves faults, and so must not fault.
pub(crate) fn is_handler() -> bool {
    IS_HANDLER.get()
}

/// A handler as its supervisor sees it.
#[derive(Debug)]
pub(super) struct Handler {
    seen: Arc<Seen>,
    thread: JoinHandle<()>,
    /// The latest fill of its that was given up.
    given_up: Option<Ticket>,
}

/// What a handler shows of itself.
#[derive(Debug)]
pub(super) struct Seen {
    record: Record,
    fill: Arc<FillWatch>,
    trace: Trace,
    /// It was replaced: it ends when it can.
    replaced: AtomicBool,
    /// It panicked.
    dead: AtomicBool,
}

impl Handler {
    pub(super) fn spawn(shared: &Arc<Shared>) -> io::Result<Self> {
        shared.uffd.injector().check(Operation::Spawn)?;
        let seen = Arc::new(Seen {
            record: Record::default(),
            fill: Arc::default(),
            trace: Trace::new(shared.config.trace),
            replaced: AtomicBool::new(false),
            dead: AtomicBool::new(false),
        });
        let thread = thread::Builder::new().name("fault-handler".to_owned()).spawn({
            let (serving, seen, cpu) =
                (Serving(Arc::downgrade(shared)), Arc::clone(&seen), shared.config.cpu);
            move || {
                IS_HANDLER.set(true);
                if let Some(cpu) = cpu
                    && let Err(error) = host::bind_thread(cpu)
                {
                    log::warn!("a fault handler is not bound to processor {cpu}: {error}");
                }
                let died = catch_unwind(AssertUnwindSafe(|| seen.serve(&serving))).is_err();
                // Release: pairs with `is_dead`.
                seen.dead.store(died, Release);
                if let Some(shared) = serving.shared() {
                    shared.wake_supervisor();
                }
            }
        })?;
        Ok(Self { seen, thread, given_up: None })
    }

    /// Whether it panicked.
    pub(super) fn is_dead(&self) -> bool {
        // Acquire: pairs with the store at the thread's end.
        self.seen.dead.load(Acquire)
    }

    /// Whether the thread has ended, as one that was replaced does.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// The fill whose filler has had longer than `deadline` and has not been given up, if there is one.
    pub(super) fn overdue_fill(&self, deadline: Duration) -> Option<Ticket> {
        let overdue =
            |fill: &RunningFill| fill.since.elapsed() > deadline && self.given_up != Some(fill.ticket);
        self.seen.fill.running().filter(overdue).map(|fill| fill.ticket)
    }

    /// Notes that `fill` is given up.
    pub(super) fn give_up(&mut self, fill: Ticket) {
        self.given_up = Some(fill);
    }

    /// Tells the thread that it was replaced; whether it had not been before.
    pub(super) fn replace(&self) -> bool {
        !self.seen.replaced.swap(true, AcqRel)
    }

    /// The host addresses that it has left unresolved.
    pub(super) fn unresolved(&self) -> impl Iterator<Item = u64> + '_ {
        self.seen.record.unresolved()
    }

    pub(super) fn take_trace(&self) -> Vec<FaultTrace> {
        self.seen.trace.take()
    }

    /// Waits for the thread's end, unless its filler takes longer than `deadline`.
    pub(super) fn join(self, deadline: Duration) {
        while !self.has_ended() {
            if self.seen.fill.running().is_some_and(|fill| fill.since.elapsed() > deadline) {
                log::warn!("a fault handler is left behind: its filler has not returned");
                return;
            }
            thread::sleep(Duration::from_micros(100));
        }
        if self.thread.join().is_err() {
            log::error!("a fault handler panicked");
        }
    }
}

/// What a handler serves, if that still goes on. Nothing of it is held while a filler runs: one that never returns would
/// keep it for ever.
struct Serving(Weak<Shared>);

/// The address space that is served, for as long as it takes to work on it.
struct Served(Arc<Shared>);

impl Serving {
    fn shared(&self) -> Option<Arc<Shared>> {
        self.0.upgrade()
    }

    fn mm(&self) -> Option<Served> {
        self.shared().map(Served)
    }
}

impl Deref for Served {
    type Target = Mm;

    fn deref(&self) -> &Mm {
        &self.0.mm
    }
}

impl Seen {
    fn serve(&self, serving: &Serving) {
        let mut scratch = Scratch::watched(Arc::clone(&self.fill));
        let mut batch = [Event::default(); BATCH];
        let mut idle_since = Instant::now();
        // Acquire: pairs with the swap in `replace`.
        while !self.replaced.load(Acquire) {
            let Some(shared) = serving.shared() else { return };
            let events = match shared.uffd.read_batch(&mut batch) {
                Ok(events) => events,
                Err(error) => {
                    log::error!("faults cannot be read: {error}");
                    if shared.is_stopping() {
                        return;
                    }
                    thread::sleep(Duration::from_millis(10));
                    continue;
                }
            };
            if events.is_empty() {
                if !wait(&shared, idle_since) {
                    return;
                }
                continue;
            }
            for (at, event) in events.iter().enumerate() {
                self.record.note(at, event.address);
            }
            drop(shared);
            for (at, event) in events.iter().enumerate() {
                self.resolve(serving, event, &mut scratch);
                self.record.strike(at);
            }
            idle_since = Instant::now();
        }
    }

    fn resolve(&self, serving: &Serving, event: &Event, scratch: &mut Scratch) {
        let read = host::time_stamp();
        let Some(shared) = serving.shared() else { return };
        // Acquire: pairs with the swap in `replace`. Whoever was replaced is watched no more, and leaves the rest to
        // others.
        if self.replaced.load(Acquire) || shared.is_stopping() {
            return shared.wake(event.address);
        }
        let page = (event.address & !(PAGE_SIZE - 1)).saturating_sub(shared.window);
        let address = shared.mm.range().start() + page;
        drop(shared);
        let cause = match event.kind {
            FaultKind::WriteProtected => Cause::WriteProtected,
            FaultKind::Missing | FaultKind::Minor => Cause::NotMapped,
        };
        // It counts and logs what fails, and wakes.
        let resolved = match mm::resolve(|| serving.mm(), Gfn::of(address), cause, scratch) {
            Some(Ok(Resolved::Done { at })) => at,
            _ => host::time_stamp(),
        };
        self.trace.keep(FaultTrace { address, read, resolved });
    }
}

/// Waits for events; false when the service stops.
fn wait(shared: &Shared, idle_since: Instant) -> bool {
    if let Waiting::Spin(at_most) = shared.config.waiting
        && idle_since.elapsed() < at_most
    {
        hint::spin_loop();
        return !shared.is_stopping();
    }
    match shared.uffd.wait(&shared.stop) {
        Ok(stop) => !stop,
        Err(error) => {
            log::error!("faults cannot be waited for: {error}");
            thread::sleep(Duration::from_millis(10));
            !shared.is_stopping()
        }
    }
}
