//! Random histories against a naive model: one list, one thread at a time.
//!
//! Each step runs to its end on a thread of its own choice before the next begins, so what every subscriber must have
//! been told is known exactly, and so is every page that a translation may still lead to. A step that has to wait, a
//! registration or a reader, sleeps on a thread of its own until the step that lets it go on. What threads do at the
//! same time is the torture's and the loom models' matter.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod memory;
mod model;
mod subscribed;
mod subscribers;
mod threads;

use std::thread;

use mmu_notifier::{AddressRange, PAGE_SIZE, Subscriptions};
use proptest::{prelude::*, sample::Index};

use crate::{memory::PAGES, model::Model};

/// Threads that hold invalidations open, any number each.
const INVALIDATORS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    /// A range subscriber comes; `refuses` what may not block.
    Register {
        refuses: bool,
    },
    Unregister(Index),
    /// An interval subscriber comes.
    Insert {
        on: AddressRange,
        refuses: bool,
    },
    Remove(Index),
    /// A thread begins one more invalidation, whatever it has open.
    Start {
        by: usize,
        on: AddressRange,
    },
    /// The same, where nobody may sleep.
    TryStart {
        by: usize,
        on: AddressRange,
    },
    /// One that is open ends: not always its thread's last.
    End(Index),
    /// A thread registers, and unregisters somebody, between its own start and end.
    Misplace(Index),
    /// A reader of an interval sleeps until it may begin.
    Sleep(Index),
    /// A subscriber's reader begins to make a translation, makes it, and keeps it if it need not start over.
    Begin(Index),
    Translate(Index, u64),
    Keep(Index),
}

fn range() -> impl Strategy<Value = AddressRange> {
    (0..PAGES, 1..5_u64)
        .prop_map(|(page, pages)| AddressRange::new(page * PAGE_SIZE, pages * PAGE_SIZE).unwrap())
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<Index>;
    let refuses = || prop::bool::weighted(0.3);
    let step = prop_oneof![
        2 => refuses().prop_map(|refuses| Step::Register { refuses }),
        1 => index().prop_map(Step::Unregister),
        2 => (range(), refuses()).prop_map(|(on, refuses)| Step::Insert { on, refuses }),
        1 => index().prop_map(Step::Remove),
        3 => (0..INVALIDATORS, range()).prop_map(|(by, on)| Step::Start { by, on }),
        2 => (0..INVALIDATORS, range()).prop_map(|(by, on)| Step::TryStart { by, on }),
        5 => index().prop_map(Step::End),
        1 => index().prop_map(Step::Misplace),
        1 => index().prop_map(Step::Sleep),
        5 => index().prop_map(Step::Begin),
        5 => (index(), 0..PAGES).prop_map(|(who, page)| Step::Translate(who, page)),
        5 => index().prop_map(Step::Keep),
    ];
    prop::collection::vec(step, 1..if cfg!(miri) { 8 } else { 120 })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 256 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn everyone_is_told_what_the_naive_model_says(steps in steps()) {
        let subscriptions = Subscriptions::new();
        thread::scope(|scope| {
            let mut model = Model::new(scope, &subscriptions);
            steps.iter().try_for_each(|step| model.step(step))?;
            model.end()
        })?;
    }
}
