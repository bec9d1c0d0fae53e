//! Subscribers that keep translations and write down what they are told; some refuse what may not block.

use std::collections::HashMap;

use mmu_notifier::{
    AddressRange, Gate, IntervalSubscriber, Invalidation, PAGE_SIZE, SequenceIsSet, SequenceUpdate,
    Subscriber, WouldBlock,
    sync::{Mutex, lock},
    testing::{Call, Recorder},
};

use crate::memory::Content;

/// Translations that are kept, by page.
pub(crate) type Kept = HashMap<u64, Content>;

fn drop_all_in(range: AddressRange, kept: &mut Kept) {
    kept.retain(|page, _| !range.contains(page * PAGE_SIZE));
}

/// Keeps translations behind a gate.
pub(crate) struct Gated {
    pub(crate) gate: Gate<Kept>,
    pub(crate) refuses: bool,
    recorder: Recorder,
}

impl Gated {
    pub(crate) fn new(number: usize, refuses: bool) -> Self {
        Self { gate: Gate::new(Kept::new()), refuses, recorder: Recorder::new(number.to_string()) }
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.recorder.calls()
    }
}

impl Subscriber for Gated {
    fn name(&self) -> &str {
        Subscriber::name(&self.recorder)
    }

    fn invalidate_range_start(&self, invalidation: &Invalidation) -> Result<(), WouldBlock> {
        if self.refuses {
            invalidation.may_block()?;
        }
        let mut kept = self.gate.write();
        kept.start(invalidation.range());
        drop_all_in(invalidation.range(), &mut kept);
        self.recorder.invalidate_range_start(invalidation)
    }

    fn invalidate_range_end(&self, invalidation: &Invalidation) {
        self.gate.write().end();
        self.recorder.invalidate_range_end(invalidation);
    }

    fn release(&self) {
        self.gate.write().clear();
        self.recorder.release();
    }
}

/// Keeps translations under a sequence number.
pub(crate) struct Sequenced {
    pub(crate) kept: Mutex<Kept>,
    pub(crate) refuses: bool,
    recorder: Recorder,
}

impl Sequenced {
    pub(crate) fn new(number: usize, refuses: bool) -> Self {
        Self { kept: Mutex::new(Kept::new()), refuses, recorder: Recorder::new(number.to_string()) }
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.recorder.calls()
    }
}

impl IntervalSubscriber for Sequenced {
    fn name(&self) -> &str {
        IntervalSubscriber::name(&self.recorder)
    }

    fn invalidate(
        &self,
        invalidation: &Invalidation,
        sequence: SequenceUpdate<'_>,
    ) -> Result<SequenceIsSet, WouldBlock> {
        if self.refuses {
            invalidation.may_block()?;
        }
        let mut kept = lock(&self.kept);
        drop_all_in(invalidation.range(), &mut kept);
        // Sets the number, while the lock is held.
        self.recorder.invalidate(invalidation, sequence)
    }
}
