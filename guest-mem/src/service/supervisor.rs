//! The thread that replaces handlers which panicked, or whose filler passed its deadline.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use mmu_notifier::PAGE_SIZE;

use super::{Shared, handler::Handler};
use crate::host::Operation;

/// How often it looks when no filler has a deadline.
const SELDOM: Duration = Duration::from_mins(1);

pub(super) fn spawn(shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
    shared.uffd.injector().check(Operation::Spawn)?;
    let shared = Arc::clone(shared);
    thread::Builder::new().name("fault-supervisor".to_owned()).spawn(move || shared.supervise())
}

impl Shared {
    fn supervise(self: &Arc<Self>) {
        let watched = self.mm.has_filler();
        let interval =
            if watched { (self.config.deadline / 4).max(Duration::from_millis(1)) } else { SELDOM };
        let mut crew = self.crew();
        while !self.is_stopping() {
            // A handler that was replaced stays here until it ends: what it still does is watched.
            crew.retain(|handler| !handler.has_ended() || handler.is_dead());
            let lost: Vec<_> = crew.extract_if(.., |handler| self.is_lost(handler)).collect();
            if lost.is_empty() {
                crew = self.sleep(crew, interval);
                continue;
            }
            drop(crew);
            let kept: Vec<_> = lost.into_iter().filter_map(|handler| self.relieve(handler)).collect();
            crew = self.crew();
            crew.extend(kept);
        }
    }

    fn is_lost(&self, handler: &Handler) -> bool {
        handler.is_dead() || handler.overdue_fill(self.config.deadline).is_some()
    }

    /// Has what `lost` left behind done by another handler; returns it if it has not ended.
    fn relieve(self: &Arc<Self>, mut lost: Handler) -> Option<Handler> {
        if lost.replace() {
            self.start_another(&lost);
        }
        if let Some(fill) = lost.overdue_fill(self.config.deadline) {
            // Tried again if it was held just now.
            if self.mm.give_up_fill(fill) {
                lost.give_up(fill);
            }
        }
        lost.unresolved().for_each(|address| self.wake(address));
        if lost.is_dead() {
            // What it had the host map, and did not enter: no fault may ever come there.
            self.mm.enter_all_stuck();
        }
        (!lost.is_dead()).then_some(lost)
    }

    /// Starts a handler in the place of `lost`, which may take as long as the system takes to have a thread for it.
    fn start_another(self: &Arc<Self>, lost: &Handler) {
        let why = if lost.is_dead() { "panicked" } else { "was kept by its filler past the deadline" };
        log::warn!("a fault handler {why}: another one takes its faults");
        self.replaced.add(1);
        while !self.is_stopping() {
            match Handler::spawn(self) {
                Ok(handler) => return self.crew().push(handler),
                // The guest waits for it, so there is nothing else to do.
                Err(error) => log::error!("no fault handler can be started: {error}"),
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Lets whoever waits for the page at the host `address` touch it again.
    pub(super) fn wake(&self, address: u64) {
        let page = (address & !(PAGE_SIZE - 1)).saturating_sub(self.window);
        if let Err(error) = self.mm.wake_window(page..page + PAGE_SIZE) {
            log::error!("nobody was woken at {page:#x} bytes into guest RAM: {error}");
        }
    }
}
