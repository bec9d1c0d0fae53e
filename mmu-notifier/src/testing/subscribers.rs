//! Subscribers to stand beside the one under test.

use std::{sync::Mutex, time::Duration};

use crate::{
    AddressRange, IntervalSubscriber, Invalidation, SequenceIsSet, SequenceUpdate, Subscriber, WouldBlock,
    sync::Tally,
};

/// One callback that a [`Recorder`] got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `invalidate_range_start`.
    Start(Invalidation),
    /// `invalidate_range_end`.
    End(Invalidation),
    /// `invalidate` of an interval.
    Invalidate(Invalidation),
    /// `release`.
    Release,
    /// `clear_flush_young`.
    ClearFlushYoung(AddressRange),
    /// `clear_young`.
    ClearYoung(AddressRange),
    /// `test_young`.
    TestYoung(u64),
}

/// Writes down every callback; says that every page is young if made so.
#[derive(Debug)]
pub struct Recorder {
    name: String,
    young: bool,
    // std's also under loom: what is recorded must not order what is modelled.
    calls: Mutex<Vec<Call>>,
}

impl Recorder {
    /// A recorder called `name`.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), young: false, calls: Mutex::new(Vec::new()) }
    }

    /// The same, whose pages are all young, always.
    #[must_use]
    pub fn young(self) -> Self {
        Self { young: true, ..self }
    }

    /// The callbacks so far, in the order in which they came.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.with(|calls| calls.clone())
    }

    fn record(&self, call: Call) {
        self.with(|calls| calls.push(call));
    }

    fn with<R>(&self, f: impl FnOnce(&mut Vec<Call>) -> R) -> R {
        f(&mut self.calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Subscriber for Recorder {
    fn name(&self) -> &str {
        &self.name
    }

    fn invalidate_range_start(&self, invalidation: &Invalidation) -> Result<(), WouldBlock> {
        self.record(Call::Start(*invalidation));
        Ok(())
    }

    fn invalidate_range_end(&self, invalidation: &Invalidation) {
        self.record(Call::End(*invalidation));
    }

    fn release(&self) {
        self.record(Call::Release);
    }

    fn clear_flush_young(&self, range: AddressRange) -> bool {
        self.record(Call::ClearFlushYoung(range));
        self.young
    }

    fn clear_young(&self, range: AddressRange) -> bool {
        self.record(Call::ClearYoung(range));
        self.young
    }

    fn test_young(&self, address: u64) -> bool {
        self.record(Call::TestYoung(address));
        self.young
    }
}

impl IntervalSubscriber for Recorder {
    fn name(&self) -> &str {
        &self.name
    }

    fn invalidate(
        &self,
        invalidation: &Invalidation,
        sequence: SequenceUpdate<'_>,
    ) -> Result<SequenceIsSet, WouldBlock> {
        self.with(|calls| {
            calls.push(Call::Invalidate(*invalidation));
            Ok(sequence.set())
        })
    }
}

/// Refuses every start that may not block.
#[derive(Debug)]
pub struct Refuser {
    name: String,
    refusals: Tally,
    ends: Tally,
}

impl Refuser {
    /// A refuser called `name`.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), refusals: Tally::new(), ends: Tally::new() }
    }

    /// How many starts it refused.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refusals.get()
    }

    /// How many ends it got.
    #[must_use]
    pub fn ends(&self) -> u64 {
        self.ends.get()
    }

    fn answer(&self, invalidation: &Invalidation) -> Result<(), WouldBlock> {
        invalidation.may_block().inspect_err(|_| self.refusals.add(1))
    }
}

impl Subscriber for Refuser {
    fn name(&self) -> &str {
        &self.name
    }

    fn invalidate_range_start(&self, invalidation: &Invalidation) -> Result<(), WouldBlock> {
        self.answer(invalidation)
    }

    fn invalidate_range_end(&self, _: &Invalidation) {
        self.ends.add(1);
    }
}

impl IntervalSubscriber for Refuser {
    fn name(&self) -> &str {
        &self.name
    }

    fn invalidate(
        &self,
        invalidation: &Invalidation,
        sequence: SequenceUpdate<'_>,
    ) -> Result<SequenceIsSet, WouldBlock> {
        self.answer(invalidation)?;
        Ok(sequence.set())
    }
}

/// Sleeps in every start and end, where it may: widens the windows that races need.
#[derive(Debug)]
pub struct Slow {
    name: String,
    delay: Duration,
}

impl Slow {
    /// A subscriber called `name` that takes `delay` for each callback.
    #[must_use]
    pub fn new(name: impl Into<String>, delay: Duration) -> Self {
        Self { name: name.into(), delay }
    }

    fn dawdle(&self, invalidation: &Invalidation) {
        if invalidation.is_blockable() {
            std::thread::sleep(self.delay);
        }
    }
}

impl Subscriber for Slow {
    fn name(&self) -> &str {
        &self.name
    }

    fn invalidate_range_start(&self, invalidation: &Invalidation) -> Result<(), WouldBlock> {
        self.dawdle(invalidation);
        Ok(())
    }

    fn invalidate_range_end(&self, invalidation: &Invalidation) {
        self.dawdle(invalidation);
    }

    fn release(&self) {
        std::thread::sleep(self.delay);
    }
}

impl IntervalSubscriber for Slow {
    fn name(&self) -> &str {
        &self.name
    }

    fn invalidate(
        &self,
        invalidation: &Invalidation,
        sequence: SequenceUpdate<'_>,
    ) -> Result<SequenceIsSet, WouldBlock> {
        self.dawdle(invalidation);
        Ok(sequence.set())
    }
}
