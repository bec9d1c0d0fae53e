//! Torture: invalidators, readers, and subscribers that come and go. Nobody may use a page that was freed.
//!
//! Runs for `MMU_NOTIFIER_TORTURE_SECONDS`, two by default; `--nocapture` shows what was done in that time.
//! ThreadSanitizer and AddressSanitizer run this too.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicI64, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
    time::Duration,
};

use mmu_notifier::{
    AddressRange, Gate, IntervalSubscriber, IntervalSubscription, Invalidation, PAGE_SIZE, SequenceIsSet,
    SequenceUpdate, Subscriber, Subscriptions, WouldBlock,
    sync::{Mutex, lock},
    testing::{Device, Harness, Report, StaleUse, TestSpace, Translation},
};

const PAGES: usize = 16;

fn harness() -> Harness {
    let seconds = std::env::var("MMU_NOTIFIER_TORTURE_SECONDS").ok();
    let seconds = seconds.map_or(2, |seconds| seconds.parse().unwrap());
    if cfg!(miri) {
        return Harness::new(PAGES).invalidators(2).readers(2).rounds(20);
    }
    Harness::new(PAGES).invalidators(3).readers(3).at_least(Duration::from_secs(seconds))
}

type Table = HashMap<u64, Translation>;

/// A range subscriber: translations behind a gate.
struct Gated(Gate<Table>);

impl Subscriber for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn invalidate_range_start(&self, invalidation: &Invalidation) -> Result<(), WouldBlock> {
        let mut table = if let Some(table) = self.0.try_write() {
            table
        } else {
            invalidation.may_block()?;
            self.0.write()
        };
        table.start(invalidation.range());
        table.retain(|page, _| !invalidation.range().contains(page * PAGE_SIZE));
        Ok(())
    }

    fn invalidate_range_end(&self, _: &Invalidation) {
        self.0.write().end();
    }
}

impl Device for Gated {
    fn touch(&self, space: &TestSpace, address: u64) -> Result<(), StaleUse> {
        let page = address / PAGE_SIZE;
        loop {
            let table = self.0.read();
            if let Some(&translation) = table.get(&page) {
                return space.access(address, translation);
            }
            drop(table);
            let ticket = self.0.enter();
            let Some(translation) = space.translate(address) else {
                continue;
            };
            let mut table = self.0.write();
            if !table.retry(ticket, address) {
                table.insert(page, translation);
                return space.access(address, translation);
            }
        }
    }
}

/// An interval subscriber: translations under a sequence number.
#[derive(Default)]
struct Sequenced(Mutex<Table>);

impl IntervalSubscriber for Sequenced {
    fn name(&self) -> &'static str {
        "sequenced"
    }

    fn invalidate(
        &self,
        invalidation: &Invalidation,
        sequence: SequenceUpdate<'_>,
    ) -> Result<SequenceIsSet, WouldBlock> {
        let mut table = if let Ok(table) = self.0.try_lock() {
            table
        } else {
            invalidation.may_block()?;
            lock(&self.0)
        };
        table.retain(|page, _| !invalidation.range().contains(page * PAGE_SIZE));
        Ok(sequence.set())
    }
}

struct Mirrored {
    table: Arc<Sequenced>,
    subscription: IntervalSubscription,
}

impl Mirrored {
    fn new(subscriptions: &Subscriptions) -> Self {
        let table = Arc::new(Sequenced::default());
        let range = AddressRange::new(0, PAGES as u64 * PAGE_SIZE).unwrap();
        Self { subscription: subscriptions.insert(range, table.clone()).unwrap(), table }
    }
}

impl Device for Mirrored {
    fn touch(&self, space: &TestSpace, address: u64) -> Result<(), StaleUse> {
        let page = address / PAGE_SIZE;
        loop {
            if let Some(&translation) = lock(&self.table.0).get(&page) {
                return space.access(address, translation);
            }
            let sequence = self.subscription.read_begin();
            let Some(translation) = space.translate(address) else {
                continue;
            };
            let mut table = lock(&self.table.0);
            if !self.subscription.read_retry(sequence) {
                table.insert(page, translation);
                return space.access(address, translation);
            }
        }
    }
}

/// A device that registers, works and leaves again every time it is touched.
struct Fleeting<'a> {
    subscriptions: &'a Subscriptions,
    /// Of the gates that are gone.
    retries: AtomicU64,
}

impl Device for Fleeting<'_> {
    fn touch(&self, space: &TestSpace, address: u64) -> Result<(), StaleUse> {
        if (address / PAGE_SIZE).is_multiple_of(2) {
            return Mirrored::new(self.subscriptions).touch(space, address);
        }
        let gated = Arc::new(Gated(Gate::new(Table::new())));
        let id = self.subscriptions.register(gated.clone()).unwrap();
        let touched = gated.touch(space, address);
        self.subscriptions.unregister(id).unwrap();
        self.retries.fetch_add(gated.0.retries(), Relaxed);
        touched
    }
}

/// Checks that pairs are whole while it comes and goes.
#[derive(Default)]
struct Paired {
    open: AtomicI64,
    released: AtomicBool,
}

impl Subscriber for Paired {
    fn name(&self) -> &'static str {
        "paired"
    }

    fn invalidate_range_start(&self, _: &Invalidation) -> Result<(), WouldBlock> {
        self.open.fetch_add(1, SeqCst);
        Ok(())
    }

    fn invalidate_range_end(&self, _: &Invalidation) {
        assert!(self.open.fetch_sub(1, SeqCst) > 0, "an end without its start");
    }

    fn release(&self) {
        assert!(!self.released.swap(true, SeqCst), "released twice");
    }
}

fn come_and_go(subscriptions: &Subscriptions, stop: &AtomicBool, stopped: &AtomicBool) {
    while !stop.load(Relaxed) {
        let paired = Arc::new(Paired::default());
        let id = subscriptions.register(paired.clone()).unwrap();
        subscriptions.unregister(id).unwrap();
        assert!(paired.released.load(SeqCst));
        assert_eq!(Arc::strong_count(&paired), 1, "used after unregistration");
    }
    stopped.store(true, SeqCst);
}

/// Runs the harness, says what was done, and checks that all of it was. `gate_retries` are counted by gates.
///
/// What threads happen to do at the same time no run can promise: one that misses a kind of thing is followed by another.
fn torture(name: &str, subscriptions: &Subscriptions, device: &impl Device, gate_retries: impl Fn() -> u64) {
    // The device's own does not count.
    let before = subscriptions.counters().registrations;
    let done_with = |reads| {
        let counters = subscriptions.counters();
        [
            ("invalidations", counters.invalidations.iter().sum::<u64>() - counters.refusals),
            ("refusals", counters.refusals),
            ("reads used", reads),
            ("retries", counters.retries + gate_retries()),
            ("registrations", counters.registrations - before),
        ]
    };
    let (mut reads, mut stale) = (0, None);
    for _ in 0..10 {
        match run(subscriptions, device) {
            Ok(report) => reads += report.accesses,
            Err(found) => stale = Some(found),
        }
        if stale.is_some() || done_with(reads).iter().all(|&(_, times)| times > 0) {
            break;
        }
    }

    let done = done_with(reads);
    let figures: Vec<_> = done.iter().map(|(what, times)| format!("{times} {what}")).collect();
    println!("{name}: {}, {} poison reads", figures.join(", "), u32::from(stale.is_some()));

    assert_eq!(stale, None);
    // Miri's scale is too small for races.
    for (what, times) in done.into_iter().filter(|_| !cfg!(miri)) {
        assert!(times > 0, "no {what}");
    }
}

fn run(subscriptions: &Subscriptions, device: &impl Device) -> Result<Report, StaleUse> {
    let (stop, stopped) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let visitor = scope.spawn(|| come_and_go(subscriptions, &stop, &stopped));
        let report = harness().run(subscriptions, device);
        stop.store(true, Relaxed);
        visitor.join().unwrap();
        // Where ThreadSanitizer sees it.
        assert!(stopped.load(SeqCst));
        report
    })
}

#[test]
fn a_gate_never_serves_poison() {
    let subscriptions = Subscriptions::new();
    let device = Arc::new(Gated(Gate::new(Table::new())));
    subscriptions.register(device.clone()).unwrap();

    torture("a gate", &subscriptions, &*device, || device.0.retries());
}

#[test]
fn a_mirror_never_serves_poison() {
    let subscriptions = Subscriptions::new();
    let device = Mirrored::new(&subscriptions);

    torture("a mirror", &subscriptions, &device, || 0);
}

#[test]
fn devices_that_come_and_go_never_serve_poison() {
    let subscriptions = Subscriptions::new();
    let device = Fleeting { subscriptions: &subscriptions, retries: AtomicU64::new(0) };

    torture("come and go", &subscriptions, &device, || device.retries.load(Relaxed));
}

/// The torture can fail: a device that is never told.
#[test]
fn a_device_that_is_not_told_is_found_out() {
    let subscriptions = Subscriptions::new();
    let device = Gated(Gate::new(Table::new()));

    let run = harness().rounds(1000).at_least(Duration::from_secs(20)).run(&subscriptions, &device);

    assert!(run.is_err());
}
