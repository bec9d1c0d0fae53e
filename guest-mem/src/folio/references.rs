//! The reference count of a folio.

use mmu_notifier::sync::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use crate::planted::{self, Bug};

/// From here on [`References::try_get`] refuses, so that the count cannot wrap to zero.
const FULL: u32 = 1 << 31;

/// How many references there are. Zero: the folio is free, or one thread's alone.
#[derive(Debug, Default)]
pub(super) struct References(AtomicU32);

impl References {
    /// The count as it was a moment ago.
    pub(super) fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// Adds one, unless there is none. Says whether it did.
    #[inline]
    pub(super) fn try_get(&self) -> bool {
        let mut count = self.0.load(Relaxed);
        loop {
            if (count == 0 && !planted::is(Bug::GetFromZero)) || count >= FULL {
                return false;
            }
            // Acquire: pairs with the Release in `unfreeze`; what was done to the folio while it was exclusive, and to
            // the page tables before, is seen by whoever has a reference, so that looking again is worth something.
            match self.0.compare_exchange_weak(count, count + 1, Acquire, Relaxed) {
                Ok(_) => return true,
                Err(now) => count = now,
            }
        }
    }

    /// Adds `count` for somebody who has a reference, or the lock of an entry that has one.
    #[inline]
    pub(super) fn add(&self, count: u32) {
        // Relaxed: whoever has a reference has already seen what `try_get` is to see.
        let before = self.0.fetch_add(count, Relaxed);
        debug_assert!(before > 0, "a reference to a folio that has none");
    }

    /// Takes `count` away and says whether those were the last: the caller is then alone with the folio.
    #[inline]
    pub(super) fn sub(&self, count: u32) -> bool {
        // Release: pairs with the Acquire below and in `freeze`; all use is over before the folio is exclusive.
        let order = if planted::is(Bug::RelaxedPut) { Relaxed } else { Release };
        let before = self.0.fetch_sub(count, order);
        debug_assert!(before >= count, "more references given back than there are");
        if before != count {
            return false;
        }
        // Acquire: pairs with the Release of every other `sub`. The count is zero and stays zero.
        self.0.load(Acquire);
        true
    }

    /// Makes the count zero if it is `expected` and not zero. Says whether it did.
    pub(super) fn freeze(&self, expected: u32) -> bool {
        if planted::is(Bug::FreezeInTwoSteps) {
            let is_expected = self.0.load(Acquire) == expected;
            if is_expected {
                self.0.store(0, Release);
            }
            return is_expected;
        }
        // Acquire: pairs with the Release in `sub`. Release: pairs with the Acquire in `try_get`, through the
        // `unfreeze` that follows.
        expected != 0 && self.0.compare_exchange(expected, 0, AcqRel, Relaxed).is_ok()
    }

    /// Makes the count of an exclusive folio `count`.
    pub(super) fn unfreeze(&self, count: u32) {
        debug_assert_eq!(self.get(), 0, "only an exclusive folio can be unfrozen");
        // Release: pairs with the Acquire in `try_get`.
        self.0.store(count, Release);
    }
}
