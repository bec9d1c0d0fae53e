//! Random histories against a naive model: one list, one thread at a time.
//!
//! Each step runs to its end on a thread of its own choice before the next begins, so what every subscriber must have
//! been told is known exactly. A step that has to wait, a registration or a reader, sleeps on a thread of its own until
//! the step that lets it go on. What threads do at the same time is the torture's and the loom models' matter.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU8,
            Ordering::{Acquire, Release},
        },
    },
    thread::{self, Scope},
};

use mmu_notifier::{
    AddressRange, Event, IntervalSubscription, Invalidation, PAGE_SIZE, Sequence, SubscriberId,
    Subscriptions,
    sync::{Mutex, lock},
    testing::{Call, Recorder, Refuser},
};
use proptest::{prelude::*, sample::Index};

const PAGES: u64 = 16;

#[derive(Clone, Debug)]
enum Step {
    Register,
    Unregister(Index),
    Insert(AddressRange),
    Remove(Index),
    Start(AddressRange),
    TryStart(AddressRange),
    End(Index),
    Read(Index),
}

fn range() -> impl Strategy<Value = AddressRange> {
    (0..PAGES, 1..5_u64)
        .prop_map(|(page, pages)| AddressRange::new(page * PAGE_SIZE, pages * PAGE_SIZE).unwrap())
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<Index>;
    let step = prop_oneof![
        1 => Just(Step::Register),
        1 => index().prop_map(Step::Unregister),
        1 => range().prop_map(Step::Insert),
        1 => index().prop_map(Step::Remove),
        2 => range().prop_map(Step::Start),
        1 => range().prop_map(Step::TryStart),
        2 => index().prop_map(Step::End),
        2 => index().prop_map(Step::Read),
    ];
    prop::collection::vec(step, 1..if cfg!(miri) { 8 } else { 60 })
}

/// How far a thread has come: an atomic, as ThreadSanitizer does not see what std's channels order.
#[derive(Default)]
struct Progress(AtomicU8);

const STARTED: u8 = 1;
const MAY_END: u8 = 2;
const ENDED: u8 = 3;

impl Progress {
    fn set(&self, stage: u8) {
        self.0.store(stage, Release);
    }

    fn is(&self, stage: u8) -> bool {
        self.0.load(Acquire) >= stage
    }

    fn wait_for(&self, stage: u8) {
        while !self.is(stage) {
            thread::yield_now();
        }
    }
}

/// A range subscriber, and what it must have been told.
struct Range {
    number: usize,
    recorder: Arc<Recorder>,
    expected: Vec<Call>,
    registering: Arc<Registering>,
    /// The invalidations that its registration waits for.
    waits_for: Vec<usize>,
}

#[derive(Default)]
struct Registering {
    progress: Progress,
    id: Mutex<Option<SubscriberId>>,
}

impl Range {
    fn id(&self) -> Option<SubscriberId> {
        *lock(&self.registering.id)
    }
}

/// An interval subscriber, what it must have been told, and what the model knows of its readers.
struct Interval {
    recorder: Arc<Recorder>,
    subscription: Arc<IntervalSubscription>,
    expected: Vec<Call>,
    /// The last sequence number that was read, and how often it had been told by then.
    read: Option<(Sequence, usize)>,
    /// A reader in `read_begin`.
    sleeper: Option<Arc<Progress>>,
    number: usize,
}

/// An invalidation that a thread of its own holds open.
struct Open {
    number: usize,
    invalidation: Invalidation,
    progress: Arc<Progress>,
    /// The numbers of the range subscribers that were told.
    told: Vec<usize>,
}

impl Open {
    fn new<'scope>(
        scope: &'scope Scope<'scope, '_>,
        subscriptions: &'scope Subscriptions,
        invalidation: Invalidation,
        number: usize,
        told: Vec<usize>,
    ) -> Self {
        let progress = Arc::new(Progress::default());
        scope.spawn({
            let progress = progress.clone();
            move || {
                let guard = subscriptions.invalidate_range_start(subscriptions.exempt(), invalidation);
                progress.set(STARTED);
                progress.wait_for(MAY_END);
                drop(guard);
                progress.set(ENDED);
            }
        });
        progress.wait_for(STARTED);
        Self { number, invalidation, progress, told }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.progress.set(MAY_END);
        self.progress.wait_for(ENDED);
    }
}

#[derive(Default)]
struct Model {
    ranges: Vec<Range>,
    intervals: Vec<Interval>,
    open: Vec<Open>,
    /// The last number that was given to anything.
    number: usize,
}

impl Model {
    fn next_number(&mut self) -> usize {
        self.number += 1;
        self.number
    }

    fn is_open(&self, on: AddressRange) -> bool {
        self.open.iter().any(|open| open.invalidation.range().overlaps(on))
    }

    fn register<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, subscriptions: &'scope Subscriptions) {
        let recorder = Arc::new(Recorder::new("range"));
        let registering = Arc::new(Registering::default());
        let before = subscriptions.counters().registrations;
        scope.spawn({
            let (recorder, registering) = (recorder.clone(), registering.clone());
            move || {
                let id = subscriptions.register(recorder).unwrap();
                *lock(&registering.id) = Some(id);
                registering.progress.set(ENDED);
            }
        });
        // Counted when it is known what to wait for.
        while subscriptions.counters().registrations == before {
            thread::yield_now();
        }
        let waits_for: Vec<_> = self.open.iter().map(|open| open.number).collect();
        if waits_for.is_empty() {
            registering.progress.wait_for(ENDED);
        }
        let number = self.next_number();
        self.ranges.push(Range { number, recorder, expected: Vec::new(), registering, waits_for });
    }

    fn step<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        subscriptions: &'scope Subscriptions,
        refuser: &Refuser,
        step: &Step,
    ) -> Result<(), TestCaseError> {
        match step {
            Step::Register => self.register(scope, subscriptions),
            Step::Unregister(index) if !self.ranges.is_empty() => {
                let at = index.index(self.ranges.len());
                if let Some(id) = self.ranges[at].id() {
                    let mut range = self.ranges.swap_remove(at);
                    subscriptions.unregister(id).unwrap();
                    range.expected.push(Call::Release);
                    prop_assert_eq!(range.recorder.calls(), range.expected);
                    prop_assert!(subscriptions.unregister(id).is_err());
                }
            }
            Step::Insert(on) => {
                let recorder = Arc::new(Recorder::new("interval"));
                let subscription = Arc::new(subscriptions.insert(*on, recorder.clone()).unwrap());
                prop_assert_eq!(subscription.try_read_begin().is_none(), self.is_open(*on));
                let number = self.next_number();
                self.intervals.push(Interval {
                    recorder,
                    subscription,
                    expected: Vec::new(),
                    read: None,
                    sleeper: None,
                    number,
                });
            }
            Step::Remove(index) if !self.intervals.is_empty() => {
                let interval = self.intervals.remove(index.index(self.intervals.len()));
                interval.subscription.remove().unwrap();
                prop_assert_eq!(interval.recorder.calls(), interval.expected);
                prop_assert!(interval.subscription.remove().is_err());
            }
            Step::Start(on) => {
                let invalidation = Invalidation::new(*on, Event::Unmap);
                let told = self.ranges.iter().map(|range| range.number).collect();
                let number = self.next_number();
                self.open.push(Open::new(scope, subscriptions, invalidation, number, told));
                self.expect_start(invalidation);
            }
            Step::TryStart(on) => {
                let refusals = refuser.refusals();
                let invalidation = Invalidation::new(*on, Event::Clear);
                let exempt = subscriptions.exempt();
                let refusal = subscriptions.invalidate_range_start_nonblock(exempt, invalidation);
                prop_assert_eq!(&*refusal.unwrap_err().by, "refuser");
                prop_assert_eq!(refuser.refusals(), refusals + 1);
                // The refuser was there first: no other range subscriber hears of it.
                for interval in &mut self.intervals {
                    if interval.subscription.range().overlaps(*on) {
                        let calls = interval.recorder.calls();
                        interval.expected.push(*calls.last().unwrap());
                    }
                }
            }
            Step::End(index) if !self.open.is_empty() => {
                let open = self.open.swap_remove(index.index(self.open.len()));
                let (ended, invalidation, told) = (open.number, open.invalidation, open.told.clone());
                drop(open);
                for range in &mut self.ranges {
                    if told.contains(&range.number) {
                        range.expected.push(Call::End(invalidation));
                    }
                    range.waits_for.retain(|&number| number != ended);
                }
                self.let_go_on();
            }
            Step::Read(index) if !self.intervals.is_empty() => {
                let at = index.index(self.intervals.len());
                let interval = &mut self.intervals[at];
                if let Some((sequence, told)) = interval.read {
                    let changed = interval.expected.len() > told;
                    prop_assert_eq!(interval.subscription.read_retry(sequence), changed);
                }
                let on = interval.subscription.range();
                let waits = self.open.iter().any(|open| open.invalidation.range().overlaps(on));
                if waits && interval.sleeper.is_none() {
                    let (subscription, progress) = (interval.subscription.clone(), Arc::default());
                    interval.sleeper = Some(Arc::clone(&progress));
                    scope.spawn(move || {
                        let _ = subscription.read_begin();
                        progress.set(ENDED);
                    });
                }
                let read = interval.subscription.try_read_begin();
                prop_assert_eq!(read.is_none(), waits, "interval {}", interval.number);
                interval.read = read.map(|sequence| (sequence, interval.expected.len()));
            }
            _ => {}
        }
        for range in &self.ranges {
            prop_assert_eq!(range.registering.progress.is(ENDED), range.waits_for.is_empty());
            prop_assert_eq!(range.recorder.calls(), &range.expected[..]);
        }
        for interval in &self.intervals {
            let asleep = interval.sleeper.as_ref().is_none_or(|sleeper| !sleeper.is(ENDED));
            prop_assert!(asleep, "interval {} woke its reader early", interval.number);
            prop_assert_eq!(interval.recorder.calls(), &interval.expected[..]);
        }
        Ok(())
    }

    /// Waits for the registrations and readers that have nothing to wait for any more.
    fn let_go_on(&mut self) {
        for range in self.ranges.iter().filter(|range| range.waits_for.is_empty()) {
            range.registering.progress.wait_for(ENDED);
        }
        let open = &self.open;
        for interval in &mut self.intervals {
            let on = interval.subscription.range();
            if !open.iter().any(|open| open.invalidation.range().overlaps(on))
                && let Some(sleeper) = interval.sleeper.take()
            {
                sleeper.wait_for(ENDED);
            }
        }
    }

    fn expect_start(&mut self, invalidation: Invalidation) {
        for range in &mut self.ranges {
            range.expected.push(Call::Start(invalidation));
        }
        for interval in &mut self.intervals {
            if interval.subscription.range().overlaps(invalidation.range()) {
                interval.expected.push(Call::Invalidate(invalidation));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 96 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn everyone_is_told_what_the_naive_model_says(steps in steps()) {
        let subscriptions = Subscriptions::new();
        let refuser = Arc::new(Refuser::new("refuser"));
        subscriptions.register(refuser.clone()).unwrap();
        thread::scope(|scope| {
            let mut model = Model::default();
            steps.iter().try_for_each(|step| model.step(scope, &subscriptions, &refuser, step))
        })?;
    }
}
