//! The naive model: it does each step, and says what must have come of it.

use std::{
    sync::Arc,
    thread::{self, Scope},
};

use mmu_notifier::{
    AddressRange, Event, Invalidation, PAGE_SIZE, RegisterError, Subscriptions, Tag, UnregisterError,
    WrongPlace, testing::Call,
};
use proptest::{prelude::*, sample::Index};

use crate::{
    INVALIDATORS, Step,
    memory::{Content, Memory},
    subscribed::{Interval, Range, Registering},
    subscribers::{Gated, Sequenced},
    threads::{Done, Invalidator},
};

type Outcome = Result<(), TestCaseError>;

pub(crate) struct Model<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    subscriptions: &'scope Subscriptions,
    invalidators: [Invalidator<'scope>; INVALIDATORS],
    /// In the order of their registration.
    ranges: Vec<Range>,
    /// In the order of their insertion.
    intervals: Vec<Interval>,
    /// In the order of their starts.
    open: Vec<Open>,
    memory: Memory,
    /// The last number that was given to anything.
    number: usize,
}

/// An invalidation between its start and its end.
struct Open {
    number: usize,
    by: usize,
    invalidation: Invalidation,
    /// Whether there was nobody to tell: then nobody knows its range.
    untold: bool,
    /// What it has unmapped, to be freed behind its end.
    unmapped: Vec<Content>,
}

impl<'scope, 'env> Model<'scope, 'env> {
    pub(crate) fn new(scope: &'scope Scope<'scope, 'env>, subscriptions: &'scope Subscriptions) -> Self {
        Self {
            scope,
            subscriptions,
            invalidators: [(); INVALIDATORS].map(|()| Invalidator::new(scope)),
            ranges: Vec::new(),
            intervals: Vec::new(),
            open: Vec::new(),
            memory: Memory::default(),
            number: 0,
        }
    }

    pub(crate) fn step(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Register { refuses } => self.register(*refuses),
            Step::Unregister(who) => self.unregister(*who)?,
            Step::Insert { on, refuses } => self.insert(*on, *refuses)?,
            Step::Remove(who) => self.remove(*who)?,
            Step::Start { by, on } => self.start(*by, *on),
            Step::TryStart { by, on } => self.try_start(*by, *on)?,
            Step::End(which) if !self.open.is_empty() => self.end_one(which.index(self.open.len())),
            Step::Misplace(which) if !self.open.is_empty() => {
                self.misplace(self.open[which.index(self.open.len())].by)?;
            }
            Step::Sleep(who) if !self.intervals.is_empty() => {
                self.sleep(who.index(self.intervals.len()));
            }
            Step::Begin(who) => self.begin(*who)?,
            Step::Translate(who, page) => self.translate(*who, *page),
            Step::Keep(who) => self.keep(*who)?,
            Step::End(_) | Step::Misplace(_) | Step::Sleep(_) => {}
        }
        self.check()
    }

    /// Ends all that is open, and then the address space.
    pub(crate) fn end(mut self) -> Outcome {
        while !self.open.is_empty() {
            self.end_one(self.open.len() / 2);
            self.check()?;
        }
        self.subscriptions.release().unwrap();
        self.memory.clear(AddressRange::ALL);
        for range in &mut self.ranges {
            range.expected.push(Call::Release);
        }
        for interval in &mut self.intervals {
            interval.tell(Invalidation::new(AddressRange::ALL, Event::Release));
        }
        self.check()
    }

    fn check(&self) -> Outcome {
        self.ranges.iter().try_for_each(|range| range.check(&self.memory))?;
        self.intervals.iter().try_for_each(|interval| interval.check(&self.memory))
    }

    fn next_number(&mut self) -> usize {
        self.number += 1;
        self.number
    }

    fn register(&mut self, refuses: bool) {
        let number = self.next_number();
        let subscriber = Arc::new(Gated::new(number, refuses));
        let registering = Arc::new(Registering::default());
        let before = self.subscriptions.counters().registrations;
        self.scope.spawn({
            let (subscriptions, subscriber, registering) =
                (self.subscriptions, subscriber.clone(), registering.clone());
            move || registering.run(subscriptions, subscriber)
        });
        // Counted when it is known what to wait for.
        while self.subscriptions.counters().registrations == before {
            thread::yield_now();
        }
        let waits_for: Vec<_> = self.open.iter().map(|open| open.number).collect();
        self.ranges.push(Range {
            number,
            subscriber,
            expected: Vec::new(),
            registering,
            waits_for,
            in_progress: Vec::new(),
            attempt: None,
        });
        self.let_go_on();
    }

    fn unregister(&mut self, who: Index) -> Outcome {
        if self.ranges.is_empty() {
            return Ok(());
        }
        let at = who.index(self.ranges.len());
        if let Some(id) = self.ranges[at].id() {
            let mut range = self.ranges.remove(at);
            self.subscriptions.unregister(id).unwrap();
            range.expected.push(Call::Release);
            range.check(&self.memory)?;
            prop_assert!(matches!(self.subscriptions.unregister(id), Err(UnregisterError::Stale)));
        }
        Ok(())
    }

    fn insert(&mut self, on: AddressRange, refuses: bool) -> Outcome {
        let number = self.next_number();
        let subscriber = Arc::new(Sequenced::new(number, refuses));
        let subscription = Arc::new(self.subscriptions.insert(on, subscriber.clone()).unwrap());
        let mut interval = Interval {
            number,
            subscriber,
            subscription,
            expected: Vec::new(),
            waits_for: self.open.iter().filter(|open| open.untold).map(|open| open.number).collect(),
            sleeper: None,
            attempt: None,
        };
        let begun = interval.begin(self.waits(&interval));
        self.intervals.push(interval);
        begun
    }

    fn remove(&mut self, who: Index) -> Outcome {
        if self.intervals.is_empty() {
            return Ok(());
        }
        let interval = self.intervals.remove(who.index(self.intervals.len()));
        interval.subscription.remove().unwrap();
        interval.check(&self.memory)?;
        prop_assert!(interval.subscription.remove().is_err());
        Ok(())
    }

    fn start(&mut self, by: usize, on: AddressRange) {
        let invalidation = Invalidation::new(on, Event::Unmap).tagged(Tag::unique());
        let subscriptions = self.subscriptions;
        self.invalidators[by].run(move |open| {
            open.push(subscriptions.invalidate_range_start(subscriptions.exempt(), invalidation));
        });
        self.started(by, invalidation);
    }

    fn try_start(&mut self, by: usize, on: AddressRange) -> Outcome {
        let invalidation = Invalidation::new(on, Event::Clear).tagged(Tag::unique());
        let subscriptions = self.subscriptions;
        let refused = self.invalidators[by].run(move |open| {
            let start = subscriptions.invalidate_range_start_nonblock(subscriptions.exempt(), invalidation);
            start.map(|guard| open.push(guard)).err()
        });
        let invalidation = that_may_not_sleep(invalidation);
        let Some(refused) = refused else {
            let would_refuse = |interval: &&mut Interval| interval.subscriber.refuses;
            prop_assert!(!self.overlapping(on).iter().any(would_refuse));
            prop_assert!(!self.ranges.iter().any(|range| range.subscriber.refuses));
            self.started(by, invalidation);
            return Ok(());
        };

        prop_assert_eq!(refused.range, on);
        // Intervals come first, by their place; then ranges, by their time.
        for interval in self.overlapping(on) {
            if interval.subscriber.refuses {
                prop_assert_eq!(&*refused.by, interval.number.to_string());
                return Ok(());
            }
            interval.tell(invalidation);
        }
        for range in &mut self.ranges {
            if range.subscriber.refuses {
                prop_assert_eq!(&*refused.by, range.number.to_string());
                return Ok(());
            }
            range.expected.extend([Call::Start(invalidation), Call::End(invalidation)]);
        }
        Err(TestCaseError::fail("refused by nobody"))
    }

    fn started(&mut self, by: usize, invalidation: Invalidation) {
        let number = self.next_number();
        let untold = self.ranges.is_empty() && self.intervals.is_empty();
        for interval in self.overlapping(invalidation.range()) {
            interval.tell(invalidation);
        }
        for range in &mut self.ranges {
            range.start(number, invalidation);
        }
        let unmapped = self.memory.clear(invalidation.range());
        self.open.push(Open { number, by, invalidation, untold, unmapped });
    }

    fn end_one(&mut self, at: usize) {
        let ended = self.open.remove(at);
        let older = self.open[..at].iter().filter(|open| open.by == ended.by).count();
        self.invalidators[ended.by].run(move |open| drop(open.remove(older)));
        self.memory.free(ended.unmapped);
        for range in &mut self.ranges {
            range.end(ended.number);
        }
        for interval in &mut self.intervals {
            interval.waits_for.retain(|&number| number != ended.number);
        }
        self.let_go_on();
    }

    /// A thread that has invalidations open would wait for itself: nothing comes of it but an error.
    fn misplace(&self, by: usize) -> Outcome {
        let subscriptions = self.subscriptions;
        let ids: Vec<_> = self.ranges.iter().filter_map(Range::id).collect();
        let (registered, unregistered) = self.invalidators[by].run(move |_| {
            let newcomer = Arc::new(Gated::new(0, false));
            let unregistered: Vec<_> = ids.into_iter().map(|id| subscriptions.unregister(id).err()).collect();
            (subscriptions.register(newcomer).err(), unregistered)
        });
        let inside = WrongPlace::InsideOperation;
        prop_assert!(matches!(registered, Some(RegisterError::WrongPlace(place)) if place == inside));
        for error in unregistered {
            prop_assert!(matches!(error, Some(UnregisterError::WrongPlace(place)) if place == inside));
        }
        Ok(())
    }

    fn sleep(&mut self, at: usize) {
        let interval = &self.intervals[at];
        if interval.sleeper.is_none() && self.waits(interval) {
            let (subscription, awake) = (interval.subscription.clone(), Arc::<Done>::default());
            self.intervals[at].sleeper = Some(awake.clone());
            self.scope.spawn(move || {
                let _ = subscription.read_begin();
                awake.set();
            });
        }
    }

    fn begin(&mut self, who: Index) -> Outcome {
        match self.pick(who) {
            Some(Picked::Range(at)) => self.ranges[at].begin(),
            Some(Picked::Interval(at)) => {
                let waits = self.waits(&self.intervals[at]);
                self.intervals[at].begin(waits)?;
            }
            None => {}
        }
        Ok(())
    }

    fn translate(&mut self, who: Index, page: u64) {
        match self.pick(who) {
            Some(Picked::Range(at)) => {
                if let Some(attempt) = &mut self.ranges[at].attempt {
                    attempt.translate(page, &mut self.memory);
                }
            }
            Some(Picked::Interval(at)) => {
                let interval = &mut self.intervals[at];
                if let Some(attempt) = &mut interval.attempt
                    && interval.subscription.range().contains(page * PAGE_SIZE)
                {
                    attempt.translate(page, &mut self.memory);
                }
            }
            None => {}
        }
    }

    fn keep(&mut self, who: Index) -> Outcome {
        match self.pick(who) {
            Some(Picked::Range(at)) => self.ranges[at].keep(),
            Some(Picked::Interval(at)) => self.intervals[at].keep(),
            None => Ok(()),
        }
    }

    fn pick(&self, who: Index) -> Option<Picked> {
        let (ranges, intervals) = (self.ranges.len(), self.intervals.len());
        let at = (ranges + intervals > 0).then(|| who.index(ranges + intervals))?;
        Some(if at < ranges { Picked::Range(at) } else { Picked::Interval(at - ranges) })
    }

    /// Whether a reader of `interval` has to wait.
    fn waits(&self, interval: &Interval) -> bool {
        let on = interval.subscription.range();
        !interval.waits_for.is_empty() || self.open.iter().any(|open| open.invalidation.range().overlaps(on))
    }

    /// The intervals that `on` overlaps, in the order in which they are told.
    fn overlapping(&mut self, on: AddressRange) -> Vec<&mut Interval> {
        let overlap = |interval: &&mut Interval| interval.subscription.range().overlaps(on);
        let mut overlapping: Vec<_> = self.intervals.iter_mut().filter(overlap).collect();
        overlapping.sort_by_key(|interval| (interval.subscription.range().start(), interval.number));
        overlapping
    }

    /// Waits for the registrations and readers that have nothing to wait for any more.
    fn let_go_on(&mut self) {
        for range in self.ranges.iter().filter(|range| range.waits_for.is_empty()) {
            range.registering.done.wait();
        }
        for at in 0..self.intervals.len() {
            if !self.waits(&self.intervals[at])
                && let Some(sleeper) = self.intervals[at].sleeper.take()
            {
                sleeper.wait();
            }
        }
    }
}

enum Picked {
    Range(usize),
    Interval(usize),
}

/// `invalidation` as a subscriber is told of it where nobody may sleep.
fn that_may_not_sleep(invalidation: Invalidation) -> Invalidation {
    let nobody = Subscriptions::new();
    let guard = nobody.invalidate_range_start_nonblock(nobody.exempt(), invalidation).unwrap();
    *guard.invalidation()
}
