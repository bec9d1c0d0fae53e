//! How many frames a pool may hold of the host, and who holds them.
//!
//! A stretch is charged for what was promised to it or for what is resident in it, whichever is more: frames within
//! a promise are always there to be had, and frames that are kept although nobody has them count too.

use mmu_notifier::sync::Tally;

use super::error::OverBudget;

/// The charges of all stretches together; all numbers are frames.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u64,
    charged: u64,
}

/// The charge of one stretch. Changed only by who has the [`Budget`].
#[derive(Debug, Default)]
pub(super) struct Charge {
    promised: Tally,
    resident: Tally,
}

impl Budget {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { limit: limit.unwrap_or(u64::MAX), charged: 0 }
    }

    pub(super) fn charged(&self) -> u64 {
        self.charged
    }

    /// Promises `frames` to a stretch of which nothing is resident.
    pub(super) fn promise(&mut self, charge: &Charge, frames: u64) -> Result<(), OverBudget> {
        self.change(charge, frames, charge.resident.get())
    }

    /// Takes the promise back.
    pub(super) fn withdraw(&mut self, charge: &Charge) {
        self.lower(charge, 0, charge.resident.get());
    }

    /// `frames` more are about to be resident.
    pub(super) fn charge(&mut self, charge: &Charge, frames: u64) -> Result<(), OverBudget> {
        self.change(charge, charge.promised.get(), charge.resident.get() + frames)
    }

    /// `frames` are not resident any more.
    pub(super) fn refund(&mut self, charge: &Charge, frames: u64) {
        self.lower(charge, charge.promised.get(), charge.resident.get().saturating_sub(frames));
    }

    fn change(&mut self, charge: &Charge, promised: u64, resident: u64) -> Result<(), OverBudget> {
        let needed = promised.max(resident) - charge.total();
        if needed > self.limit.saturating_sub(self.charged) {
            return Err(OverBudget { needed, charged: self.charged, limit: self.limit });
        }
        self.charged += needed;
        charge.promised.set(promised);
        charge.resident.set(resident);
        Ok(())
    }

    fn lower(&mut self, charge: &Charge, promised: u64, resident: u64) {
        self.charged -= charge.total() - promised.max(resident);
        charge.promised.set(promised);
        charge.resident.set(resident);
    }
}

impl Charge {
    pub(super) fn is_promised(&self) -> bool {
        self.promised.get() > 0
    }

    fn total(&self) -> u64 {
        self.promised.get().max(self.resident.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_is_charged_once_and_always_there() {
        let mut budget = Budget::new(Some(100));
        let (promised, other) = (Charge::default(), Charge::default());

        budget.promise(&promised, 60).unwrap();
        budget.charge(&other, 40).unwrap();

        assert_eq!(budget.charge(&other, 1), Err(OverBudget { needed: 1, charged: 100, limit: 100 }));
        budget.charge(&promised, 60).unwrap();
        assert_eq!(budget.charged(), 100);
    }

    #[test]
    fn a_refund_within_a_promise_leaves_it_charged() {
        let mut budget = Budget::new(Some(100));
        let charge = Charge::default();
        budget.promise(&charge, 60).unwrap();
        budget.charge(&charge, 80).unwrap();

        budget.refund(&charge, 30);
        let within = budget.charged();
        budget.withdraw(&charge);

        assert_eq!((within, budget.charged()), (60, 50));
    }

    #[test]
    fn a_promise_that_does_not_fit_is_refused_whole() {
        let mut budget = Budget::new(Some(100));
        let charge = Charge::default();

        let refused = budget.promise(&charge, 101);

        assert_eq!(refused, Err(OverBudget { needed: 101, charged: 0, limit: 100 }));
        assert_eq!(budget.charged(), 0);
    }

    #[test]
    fn without_a_limit_everything_fits() {
        let mut budget = Budget::new(None);

        budget.charge(&Charge::default(), 1 << 40).unwrap();

        assert_eq!(budget.charged(), 1 << 40);
    }
}
