//! The protocol, one promise a test.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod invalidation;
mod leaving;
mod panics;
mod refusal;
mod registration;

use std::sync::Arc;

use mmu_notifier::{
    AddressRange, Event, Invalidation, PAGE_SIZE, Subscriber, SubscriberId, Subscriptions, WouldBlock,
    testing::Recorder,
};

fn pages(start: u64, count: u64) -> AddressRange {
    AddressRange::new(start * PAGE_SIZE, count * PAGE_SIZE).unwrap()
}

fn unmap(start: u64, count: u64) -> Invalidation {
    Invalidation::new(pages(start, count), Event::Unmap)
}

/// Calls a closure in each callback.
struct Calling<S, E = fn(), R = fn()> {
    start: S,
    end: E,
    release: R,
}

impl<S, E, R> Subscriber for Calling<S, E, R>
where
    S: Fn() + Send + Sync,
    E: Fn() + Send + Sync,
    R: Fn() + Send + Sync,
{
    fn name(&self) -> &'static str {
        "calling"
    }

    fn invalidate_range_start(&self, _: &Invalidation) -> Result<(), WouldBlock> {
        (self.start)();
        Ok(())
    }

    fn invalidate_range_end(&self, _: &Invalidation) {
        (self.end)();
    }

    fn release(&self) {
        (self.release)();
    }
}

fn nothing() {}

fn on_start(start: impl Fn() + Send + Sync + 'static) -> Arc<dyn Subscriber> {
    Arc::new(Calling { start, end: nothing as fn(), release: nothing as fn() })
}

fn recorder(subscriptions: &Subscriptions, name: &str) -> (Arc<Recorder>, SubscriberId) {
    let recorder = Arc::new(Recorder::new(name));
    let id = subscriptions.register(recorder.clone()).unwrap();
    (recorder, id)
}
