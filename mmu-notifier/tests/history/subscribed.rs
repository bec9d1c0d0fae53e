//! What the model knows of one subscription: what its subscriber must have been told, and how far its reader is.

use std::sync::Arc;

use mmu_notifier::{
    IntervalSubscription, Invalidation, PAGE_SIZE, Sequence, SubscriberId, Subscriptions, Ticket,
    sync::{Mutex, lock},
    testing::Call,
};
use proptest::prelude::*;

use crate::{
    memory::{Content, Memory},
    subscribers::{Gated, Kept, Sequenced},
    threads::Done,
};

/// A range subscriber.
pub(crate) struct Range {
    pub(crate) number: usize,
    pub(crate) subscriber: Arc<Gated>,
    pub(crate) expected: Vec<Call>,
    pub(crate) registering: Arc<Registering>,
    /// The invalidations that its registration waits for.
    pub(crate) waits_for: Vec<usize>,
    /// Those that it was told of and that are open.
    pub(crate) in_progress: Vec<(usize, Invalidation)>,
    pub(crate) attempt: Option<Attempt<Ticket>>,
}

/// A registration on a thread of its own.
#[derive(Default)]
pub(crate) struct Registering {
    pub(crate) done: Done,
    id: Mutex<Option<SubscriberId>>,
}

/// An interval subscriber.
pub(crate) struct Interval {
    pub(crate) number: usize,
    pub(crate) subscriber: Arc<Sequenced>,
    pub(crate) subscription: Arc<IntervalSubscription>,
    pub(crate) expected: Vec<Call>,
    /// Invalidations of unknown range that were open at the insertion.
    pub(crate) waits_for: Vec<usize>,
    /// A reader in `read_begin`.
    pub(crate) sleeper: Option<Arc<Done>>,
    pub(crate) attempt: Option<Attempt<Sequence>>,
}

/// A translation in the making.
pub(crate) struct Attempt<T> {
    began: T,
    /// How often the subscriber had been told by then.
    told: usize,
    made: Option<(u64, Content)>,
}

impl<T> Attempt<T> {
    pub(crate) fn translate(&mut self, page: u64, memory: &mut Memory) {
        self.made = Some((page, memory.translate(page)));
    }
}

impl Registering {
    pub(crate) fn run(&self, subscriptions: &Subscriptions, subscriber: Arc<Gated>) {
        *lock(&self.id) = Some(subscriptions.register(subscriber).unwrap());
        self.done.set();
    }
}

impl Range {
    pub(crate) fn id(&self) -> Option<SubscriberId> {
        *lock(&self.registering.id)
    }

    pub(crate) fn start(&mut self, number: usize, invalidation: Invalidation) {
        self.expected.push(Call::Start(invalidation));
        self.in_progress.push((number, invalidation));
    }

    pub(crate) fn end(&mut self, ended: usize) {
        if let Some(at) = self.in_progress.iter().position(|&(number, _)| number == ended) {
            self.expected.push(Call::End(self.in_progress.remove(at).1));
        }
        self.waits_for.retain(|&number| number != ended);
    }

    /// Translations may be kept from registration's return on.
    pub(crate) fn begin(&mut self) {
        if self.id().is_some() {
            let began = self.subscriber.gate.enter();
            self.attempt = Some(Attempt { began, told: self.expected.len(), made: None });
        }
    }

    pub(crate) fn keep(&mut self) -> Result<(), TestCaseError> {
        let Some(Attempt { began, told, made: Some((page, content)) }) = self.attempt.take() else {
            return Ok(());
        };
        let mut kept = self.subscriber.gate.write();
        let retry = kept.retry(began, page * PAGE_SIZE);
        let ended = self.expected[told..].iter().any(|call| matches!(call, Call::End(_)));
        let on_the_page = |(_, open): &(usize, Invalidation)| open.range().contains(page * PAGE_SIZE);
        if ended || self.in_progress.iter().any(on_the_page) {
            prop_assert!(retry, "{} keeps a page that is going", self.number);
        } else if self.in_progress.is_empty() {
            prop_assert!(!retry, "{} starts over for nothing", self.number);
        }
        if !retry {
            kept.insert(page, content);
        }
        Ok(())
    }

    pub(crate) fn check(&self, memory: &Memory) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.registering.done.is_set(), self.waits_for.is_empty());
        prop_assert_eq!(self.subscriber.calls(), &self.expected[..]);
        check_kept(&self.subscriber.gate.read(), memory)
    }
}

impl Interval {
    pub(crate) fn tell(&mut self, invalidation: Invalidation) {
        self.expected.push(Call::Invalidate(invalidation));
    }

    pub(crate) fn begin(&mut self, waits: bool) -> Result<(), TestCaseError> {
        let began = self.subscription.try_read_begin();
        prop_assert_eq!(began.is_none(), waits, "interval {}", self.number);
        let told = self.expected.len();
        self.attempt = began.map(|began| Attempt { began, told, made: None });
        Ok(())
    }

    pub(crate) fn keep(&mut self) -> Result<(), TestCaseError> {
        let Some(Attempt { began, told, made: Some((page, content)) }) = self.attempt.take() else {
            return Ok(());
        };
        let mut kept = lock(&self.subscriber.kept);
        let retry = self.subscription.read_retry(began);
        prop_assert_eq!(retry, self.expected.len() > told, "interval {}", self.number);
        if !retry {
            kept.insert(page, content);
        }
        Ok(())
    }

    pub(crate) fn check(&self, memory: &Memory) -> Result<(), TestCaseError> {
        let asleep = self.sleeper.as_ref().is_none_or(|sleeper| !sleeper.is_set());
        prop_assert!(asleep, "interval {} woke its reader early", self.number);
        prop_assert_eq!(self.subscriber.calls(), &self.expected[..]);
        check_kept(&lock(&self.subscriber.kept), memory)
    }
}

/// What is kept may be used at any time: none of it may lead to a page that is free, or going.
fn check_kept(kept: &Kept, memory: &Memory) -> Result<(), TestCaseError> {
    for (&page, &content) in kept {
        prop_assert!(!memory.is_freed(content), "page {page} was freed and is kept as {content:?}");
        prop_assert!(memory.is_mapped(page, content), "page {page} is unmapped and kept as {content:?}");
    }
    Ok(())
}
