//! A device that mirrors an address space and never goes stale, driven by random invalidations; and the same device,
//! told of nothing, which does.
//!
//! The shape is that of Linux's lib/test_hmm.c: a table of translations of the device's own, filled on demand under a
//! sequence number, emptied by the invalidation before the page goes away.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mmu_notifier::{
    AddressRange, IntervalSubscriber, IntervalSubscription, Invalidation, PAGE_SIZE, RangeError,
    RegisterError, SequenceIsSet, SequenceUpdate, Subscriptions, WouldBlock,
    testing::{Device, Harness, StaleUse, TestSpace, Translation},
};

const PAGES: usize = 64;

/// The device's page table, by page number.
#[derive(Default)]
struct Mirror(Mutex<HashMap<u64, Translation>>);

impl Mirror {
    fn table(&self) -> MutexGuard<'_, HashMap<u64, Translation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IntervalSubscriber for Mirror {
    fn name(&self) -> &'static str {
        "mirror"
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
            self.table()
        };
        table.retain(|page, _| !invalidation.range().contains(page * PAGE_SIZE));
        Ok(sequence.set())
    }
}

/// What the device's own program sees: memory at its addresses.
struct MirroredMemory {
    mirror: Arc<Mirror>,
    subscription: IntervalSubscription,
}

impl Device for MirroredMemory {
    fn touch(&self, space: &TestSpace, address: u64) -> Result<(), StaleUse> {
        let page = address / PAGE_SIZE;
        loop {
            let table = self.mirror.table();
            if let Some(&translation) = table.get(&page) {
                return space.access(address, translation);
            }
            drop(table);

            // A fault of the device.
            let sequence = self.subscription.read_begin();
            let Some(translation) = space.translate(address) else {
                continue;
            };
            let mut table = self.mirror.table();
            if !self.subscription.read_retry(sequence) {
                table.insert(page, translation);
                return space.access(address, translation);
            }
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let subscriptions = Subscriptions::new();
    let device = mirror(&subscriptions)?;

    let harness = Harness::new(PAGES).invalidators(2).readers(2).rounds(50_000);
    let report = harness.run(&subscriptions, &device)?;

    let retries = subscriptions.counters().retries;
    println!(
        "told before each page goes: {} accesses, {} invalidations, {} refused, {retries} retries, no stale use",
        report.accesses, report.invalidations, report.refusals
    );

    device.subscription.remove()?;
    match harness.run(&subscriptions, &device) {
        Err(stale) => println!("told of nothing: {stale}"),
        Ok(_) => println!("told of nothing: no stale use was met this time"),
    }
    Ok(())
}

fn mirror(subscriptions: &Subscriptions) -> Result<MirroredMemory, MirrorError> {
    let mirror = Arc::new(Mirror::default());
    let range = AddressRange::new(0, PAGES as u64 * PAGE_SIZE)?;
    let subscription = subscriptions.insert(range, mirror.clone())?;
    Ok(MirroredMemory { mirror, subscription })
}

/// Why the mirror could not be set up.
#[derive(Debug, thiserror::Error)]
enum MirrorError {
    #[error("the mirrored range is not made of pages")]
    Range(#[from] RangeError),
    #[error("the address space took no subscriber")]
    Register(#[from] RegisterError),
}
