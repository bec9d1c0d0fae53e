//! What the loom models of this crate have in common.

use mmu_notifier::sync::cell::UnsafeCell;

use crate::planted::{self, Bug};

/// Runs `f`, with a bug or without, in every order that takes at most `preemptions` forced switches.
#[track_caller]
pub(crate) fn explore(preemptions: usize, planted: Option<Bug>, f: impl Fn() + Sync + Send + 'static) {
    planted::plant(planted);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    // A 2 MiB range has 512 pages, and loom counts a look at each.
    builder.max_branches = 20_000;
    builder.check(f);
}

/// What a frame holds: it may be used or overwritten, not both; loom watches.
pub(crate) struct Content(UnsafeCell<()>);

#[expect(unsafe_code, reason = "the cell is loom's, to be raced for")]
// SAFETY: there is nothing in the cell, and loom stops the model when accesses to it race.
unsafe impl Sync for Content {}

impl Default for Content {
    fn default() -> Self {
        Self(UnsafeCell::new(()))
    }
}

impl Content {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn use_it(&self) {
        self.0.with(|_| ());
    }

    pub(crate) fn overwrite(&self) {
        self.0.with_mut(|_| ());
    }
}
