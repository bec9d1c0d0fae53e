//! loom models of the notifiers, and a table of all models of this crate.
//!
//! Each protocol is modelled once as it is, and once with each bug that it must catch
//! ([`planted`](crate::planted)). A page is a loom cell: using it is a read, freeing it is a write, and loom stops
//! the model when the two are not ordered.
//!
//! The bound is threads / forced switches; what else bounds a model is said with it. A block of marks has 2 slots in
//! all of them. A planted bug is caught by the very model that it stands beside.
//!
//! | model | bound | planted bugs |
//! |---|---|---|
//! | *registration against an invalidation that began before it* | | |
//! | `registration::grace_period` | 2 / 3 | `MarkWithoutFence` `ReadBeforeMark` `ScanBeforePublish` `NoGracePeriod` `LostWakeup` `GateKeepsSequence` `GateIgnoresProgress` |
//! | `registration::all_locks` | 2 / 3 | `NoLocks` `SkipVmaLocks` |
//! | `registration::grace_period_behind_another` | 2 / 3 | `NoGracePeriod` |
//! | `registration::all_locks_behind_another` | 2 / 3 | `NoLocks` |
//! | `registration::all_locks_against_reclaim` | 2 / 3 | `SkipRmapLocks` |
//! | `registration::all_locks_against_the_exempt` | 2 / 3 | `IgnoreExempt` |
//! | *marks* | | |
//! | `marks::two_chain_a_block` | 3 / 3 | `ChainRelaxed` `ChainOverwrites` |
//! | *range notifiers* | | |
//! | `range::unregister_against_a_callback` | 2 / 3 | `CallWithoutFence` `NoCallbackWait` |
//! | `range::release_against_unregister` | 2 / 3 | `ReleaseTwice` |
//! | `range::registration_across_a_pair` | 2 / 3 | `EndToCurrentList` `FreeAtOnce` |
//! | `range::refusal` | 2 / 3 | `EndToRefuser` `NoRollback` |
//! | *interval notifiers* | | |
//! | `interval::reader_against_invalidation` | 2 / 3 | `SequenceReadLate` `ActiveLate` |
//! | `interval::insertion_during_an_invalidation` | 2 / 3 | `IgnorePending` |
//! | `interval::insertion_behind_another_range` | 2 / 3 | `RangeOfAnother` |
//! | `interval::a_sleeping_reader` | 3 / 3 | `LostReaderWakeup` `ReaderSleepsUnmarked` |
//! | *all locks* | | |
//! | `all_locks::a_fault_and_reclaim` | 3 / 5 | `SkipVmaLocks` `SkipRmapLocks` |
//! | `all_locks::two_owners_that_share_mappings` | 3 / 5 | `NoAllLocks` |
//! | `all_locks::an_interruption` | 3 / 5 | `MarkBeforeLock` |
//! | *the lock* | | |
//! | `lock::two_writers_and_a_reader` | 3 / 4 | `RelaxedEntry` `SleepUnmarked` |
//! | `lock::two_readers_and_a_writer` | 3 / 4 | `IgnoreReaders` |
//! | `lock::a_writer_gives_up` | 3 / 4 | `GiveUpSilently` |
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its model")]

mod interval;
mod marks;
mod range;
mod registration;

use std::sync::Arc;

use crate::{
    AddressRange, Event, Gate, IntervalSubscriber, Invalidation, PAGE_SIZE, SequenceIsSet, SequenceUpdate,
    Subscriber, WouldBlock,
    planted::{self, Bug},
    sync::{
        Mutex,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
        cell::UnsafeCell,
        lock,
    },
};

/// The bound on forced switches.
const PREEMPTIONS: usize = 3;

#[track_caller]
fn model(planted: Option<Bug>, f: impl Fn() + Sync + Send + 'static) {
    explore(PREEMPTIONS, planted, f);
}

/// Runs `f`, with a bug or without, in every order that takes at most so many forced switches.
#[track_caller]
pub(crate) fn explore(preemptions: usize, planted: Option<Bug>, f: impl Fn() + Sync + Send + 'static) {
    planted::plant(planted);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(f);
}

fn unmap() -> Invalidation {
    Invalidation::new(AddressRange::new(0, PAGE_SIZE).unwrap(), Event::Unmap)
}

/// Memory that may be used or freed, not both: loom watches.
#[derive(Default)]
struct Memory(UnsafeCell<()>);

#[expect(unsafe_code, reason = "the cell is loom's, to be raced for")]
// SAFETY: there is nothing in the cell, and loom stops the model when accesses to it race.
unsafe impl Sync for Memory {}

impl Memory {
    fn use_it(&self) {
        if !std::thread::panicking() {
            self.0.with(|_| ());
        }
    }

    fn free(&self) {
        if !std::thread::panicking() {
            self.0.with_mut(|_| ());
        }
    }
}

/// A page that is mapped at address zero.
struct Page {
    mapped: AtomicBool,
    content: Memory,
}

impl Page {
    fn new() -> Self {
        Self { mapped: AtomicBool::new(true), content: Memory::default() }
    }

    fn translate(&self) -> bool {
        self.mapped.load(Acquire)
    }

    fn use_it(&self) {
        self.content.use_it();
    }

    fn clear(&self) {
        self.mapped.store(false, Release);
    }

    fn free(&self) {
        self.content.free();
    }
}

/// A device that keeps the page's translation behind a gate.
struct Device {
    page: Arc<Page>,
    cache: Gate<bool>,
}

impl Device {
    fn new(page: &Arc<Page>) -> Self {
        Self { page: page.clone(), cache: Gate::new(false) }
    }

    /// Tries once to make a translation, and uses what it has.
    fn work(&self) {
        let ticket = self.cache.enter();
        let mapped = self.page.translate();
        let mut cache = self.cache.write();
        if !cache.retry(ticket, 0) {
            *cache = mapped;
        }
        drop(cache);
        let cache = self.cache.read();
        if *cache {
            self.page.use_it();
        }
    }
}

impl Subscriber for Device {
    fn name(&self) -> &'static str {
        "device"
    }

    fn invalidate_range_start(&self, invalidation: &Invalidation) -> Result<(), WouldBlock> {
        let mut cache = self.cache.write();
        cache.start(invalidation.range());
        *cache = false;
        Ok(())
    }

    fn invalidate_range_end(&self, _: &Invalidation) {
        self.cache.write().end();
    }
}

/// A device that keeps the page's translation under a sequence number.
struct Mirror {
    page: Arc<Page>,
    cache: Mutex<bool>,
}

impl Mirror {
    fn new(page: &Arc<Page>) -> Self {
        Self { page: page.clone(), cache: Mutex::new(false) }
    }

    /// Tries once to make a translation, and uses what it has.
    fn work(&self, subscription: &crate::IntervalSubscription) {
        let sequence = subscription.read_begin();
        let mapped = self.page.translate();
        let mut cache = lock(&self.cache);
        if !subscription.read_retry(sequence) {
            *cache = mapped;
        }
        drop(cache);
        let cache = lock(&self.cache);
        if *cache {
            self.page.use_it();
        }
    }
}

impl IntervalSubscriber for Mirror {
    fn name(&self) -> &'static str {
        "mirror"
    }

    fn invalidate(
        &self,
        _: &Invalidation,
        sequence: SequenceUpdate<'_>,
    ) -> Result<SequenceIsSet, WouldBlock> {
        let mut cache = lock(&self.cache);
        *cache = false;
        Ok(sequence.set())
    }
}
