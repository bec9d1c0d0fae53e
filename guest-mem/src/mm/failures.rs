//! Faults that fail again and again: how long to hope, and when to say that the page is lost.
//!
//! Whoever faulted is woken after a failure and faults again, so what passes is got over. A page whose faults have done
//! nothing but fail for longer than the patience is poisoned: the guest stops with a message instead of faulting for ever.

use std::{
    io,
    ops::Range,
    time::{Duration, Instant},
};

use mmu_notifier::{
    AddressRange,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
        lock,
    },
};

use super::{Mm, bytes_of};
use crate::{Gfn, PageSize};

/// Two failures further apart than this have nothing to do with each other.
const APART: Duration = Duration::from_secs(1);

/// The pages whose faults failed lately.
#[derive(Debug)]
pub(super) struct Failures {
    patience: Duration,
    /// A leaf, and empty unless something is wrong.
    failing: Mutex<Vec<Failing>>,
    /// What was poisoned, page by page as the window has them. A leaf; changed under the page-table lock.
    poisoned: Mutex<Vec<Range<Gfn>>>,
    /// Whether `failing` may not be empty: what a fault that succeeds looks at. A hint, it orders nothing.
    any: AtomicBool,
}

#[derive(Debug)]
struct Failing {
    gfn: Gfn,
    first: Instant,
    last: Instant,
}

impl Failures {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, failing: Mutex::default(), poisoned: Mutex::default(), any: AtomicBool::new(false) }
    }

    /// The fault at `gfn` failed at `now`. Whether it has been failing for too long.
    pub(super) fn are_final(&self, gfn: Gfn, now: Instant) -> bool {
        let mut failing = lock(&self.failing);
        failing.retain(|other| now.duration_since(other.last) < APART);
        self.any.store(true, Relaxed);
        let Some(known) = failing.iter_mut().find(|other| other.gfn == gfn) else {
            failing.push(Failing { gfn, first: now, last: now });
            return false;
        };
        known.last = now;
        now.duration_since(known.first) > self.patience
    }

    /// A fault at `gfn` was resolved: what failed there has passed.
    pub(super) fn are_over(&self, gfn: Gfn) {
        if self.any.load(Relaxed) {
            let mut failing = lock(&self.failing);
            failing.retain(|other| other.gfn != gfn);
            self.any.store(!failing.is_empty(), Relaxed);
        }
    }
}

impl Mm {
    /// Gives the page of `size` at `gfn` up: whoever touches it gets a machine check's SIGBUS, until it is discarded.
    pub(super) fn poison(&self, gfn: Gfn, size: PageSize) -> io::Result<()> {
        let pages = Self::pages_of(gfn, size);
        let _pt = self.lock_entries(gfn).map_err(io::Error::other)?;
        self.install.poison(self.offsets(&pages))?;
        lock(&self.failures.poisoned).push(pages);
        Ok(())
    }

    /// Takes the poison out of every page that has a part in `range`, and forgets what failed there.
    ///
    /// # Errors
    /// What the host said at the first that stays as it is.
    pub(super) fn cure(&self, range: AddressRange) -> io::Result<()> {
        let concerned = |pages: &Range<Gfn>| bytes_of(pages).is_some_and(|bytes| bytes.overlaps(range));
        lock(&self.failures.failing).retain(|failing| !range.contains(failing.gfn.address()));
        let next = || lock(&self.failures.poisoned).iter().find(|pages| concerned(pages)).cloned();
        while let Some(pages) = next() {
            let _pt = self.lock_entries(pages.start).map_err(io::Error::other)?;
            self.install.zap(self.offsets(&pages))?;
            lock(&self.failures.poisoned).retain(|other| *other != pages);
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_a_page_that_fails_all_the_time_is_given_up() {
        let failures = Failures::new(Duration::from_secs(3));
        let start = Instant::now();
        let at = |tenths: u64| start + Duration::from_millis(100 * tenths);
        let (bad, other) = (Gfn::new(7), Gfn::new(8));

        let given_up: Vec<_> = (0..40).filter(|&now| failures.are_final(bad, at(now))).collect();

        assert_eq!(given_up.first(), Some(&31));
        assert!(!failures.are_final(other, at(40)));
        assert!(!failures.are_final(bad, at(60)), "two seconds without a failure are a new beginning");
    }

    #[test]
    fn a_page_that_was_had_meanwhile_begins_anew() {
        let failures = Failures::new(Duration::from_secs(3));
        let start = Instant::now();
        let (bad, good) = (Gfn::new(7), Gfn::new(8));
        failures.are_final(bad, start);
        failures.are_final(good, start);

        let given_up = (1..100).map(|tenth| {
            failures.are_over(good);
            let now = start + Duration::from_millis(100 * tenth);
            (failures.are_final(bad, now), failures.are_final(good, now))
        });

        assert_eq!(given_up.last(), Some((true, false)));
    }
}
