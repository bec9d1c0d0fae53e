//! Random invalidations against a device that keeps translations.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    thread,
    time::{Duration, Instant},
};

use super::{StaleUse, TestSpace};
use crate::{AddressRange, PAGE_SIZE, Subscriptions};

/// A subscriber under test, seen as what uses memory.
pub trait Device: Sync {
    /// Uses the page at `address` (in bytes) once: through a translation that the device has kept, or through a new one
    /// from [`TestSpace::translate`]. The use itself is [`TestSpace::access`], made while the translation must be good.
    ///
    /// # Errors
    /// The [`StaleUse`] that [`TestSpace::access`] gave.
    fn touch(&self, space: &TestSpace, address: u64) -> Result<(), StaleUse>;
}

/// Drives random invalidations and random accesses, and reports the first stale use.
///
/// ```
/// # use mmu_notifier::{Subscriptions, testing::{Device, Harness, StaleUse, TestSpace}};
/// struct Uncached;
/// impl Device for Uncached {
///     fn touch(&self, space: &TestSpace, address: u64) -> Result<(), StaleUse> {
///         let _ = space.translate(address);
///         Ok(())
///     }
/// }
/// let report = Harness::new(8).rounds(100).run(&Subscriptions::new(), &Uncached)?;
/// assert_eq!(report.accesses, 100);
/// # Ok::<(), StaleUse>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Harness {
    pages: usize,
    invalidators: usize,
    readers: usize,
    rounds: u64,
    at_least: Duration,
    seed: u64,
}

/// What a run did without finding a stale use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Ranges that were unmapped.
    pub invalidations: u64,
    /// Non-blocking invalidations that were refused.
    pub refusals: u64,
    /// Pages that the device used.
    pub accesses: u64,
}

impl Harness {
    /// A harness over `pages` pages: one invalidator, one reader, 1000 rounds, seed 1.
    #[must_use]
    pub const fn new(pages: usize) -> Self {
        Self { pages, invalidators: 1, readers: 1, rounds: 1000, at_least: Duration::ZERO, seed: 1 }
    }

    /// With so many threads that invalidate.
    #[must_use]
    pub const fn invalidators(self, invalidators: usize) -> Self {
        Self { invalidators, ..self }
    }

    /// With so many threads that use the device.
    #[must_use]
    pub const fn readers(self, readers: usize) -> Self {
        Self { readers, ..self }
    }

    /// With so many operations by each thread, at least.
    #[must_use]
    pub const fn rounds(self, rounds: u64) -> Self {
        Self { rounds, ..self }
    }

    /// For so long, at least.
    #[must_use]
    pub const fn at_least(self, at_least: Duration) -> Self {
        Self { at_least, ..self }
    }

    /// With other random numbers. The same seed gives each thread the same operations, not the same interleaving.
    #[must_use]
    pub const fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Runs the threads until each has done its rounds and the time is over, or somebody used a stale translation.
    ///
    /// # Errors
    /// The first [`StaleUse`].
    pub fn run(&self, subscriptions: &Subscriptions, device: &impl Device) -> Result<Report, StaleUse> {
        let run = Run {
            harness: self,
            space: TestSpace::new(self.pages),
            started: Instant::now(),
            stop: AtomicBool::new(false),
            stale: Mutex::new(None),
            invalidations: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            accesses: AtomicU64::new(0),
            finished: AtomicUsize::new(0),
        };
        let seeds = self.seed..;
        thread::scope(|scope| {
            let run = &run;
            for (thread, seed) in (0..self.invalidators + self.readers).zip(seeds) {
                let random = Random::new(seed);
                if thread < self.invalidators {
                    scope.spawn(move || run.invalidate(subscriptions, random).finish());
                } else {
                    scope.spawn(move || run.read(device, random).finish());
                }
            }
        });
        // Acquire, and Release in `finish`: the end of a scope is inside the prebuilt standard library, where
        // ThreadSanitizer does not see what it orders.
        let finished = run.finished.load(Acquire);
        debug_assert_eq!(finished, self.invalidators + self.readers);
        if let Some(stale) = run.stale.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(stale);
        }
        Ok(Report {
            invalidations: run.invalidations.into_inner(),
            refusals: run.refusals.into_inner(),
            accesses: run.accesses.into_inner(),
        })
    }
}

/// What the threads of a run share.
struct Run<'a> {
    harness: &'a Harness,
    space: TestSpace,
    started: Instant,
    stop: AtomicBool,
    stale: Mutex<Option<StaleUse>>,
    invalidations: AtomicU64,
    refusals: AtomicU64,
    accesses: AtomicU64,
    finished: AtomicUsize,
}

impl Run<'_> {
    fn finish(&self) {
        self.finished.fetch_add(1, Release);
    }

    fn goes_on(&self, round: u64) -> bool {
        let unfinished = round < self.harness.rounds || self.started.elapsed() < self.harness.at_least;
        unfinished && !self.stop.load(Relaxed)
    }

    fn invalidate(&self, subscriptions: &Subscriptions, mut random: Random) -> &Self {
        let witness = subscriptions.exempt();
        for round in 0.. {
            if !self.goes_on(round) {
                break;
            }
            let range = random.range(self.harness.pages as u64);
            if random.below(4) > 0 {
                self.space.unmap(subscriptions, witness, range);
                self.invalidations.fetch_add(1, Relaxed);
                continue;
            }
            match self.space.try_unmap(subscriptions, witness, range) {
                Ok(()) => self.invalidations.fetch_add(1, Relaxed),
                Err(_) => self.refusals.fetch_add(1, Relaxed),
            };
        }
        self
    }

    fn read(&self, device: &impl Device, mut random: Random) -> &Self {
        for round in 0.. {
            if !self.goes_on(round) {
                break;
            }
            let address = random.below(self.harness.pages as u64) * PAGE_SIZE + random.below(PAGE_SIZE);
            if let Err(stale) = device.touch(&self.space, address) {
                self.stale.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(stale);
                self.stop.store(true, Relaxed);
            }
            self.accesses.fetch_add(1, Relaxed);
        }
        self
    }
}

/// xorshift64* (Vigna, *An experimental exploration of Marsaglia's xorshift generators*, 2016).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        // Zero is the one state it never leaves; multiplying by an odd number spreads small seeds.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).max(1))
    }

    /// A number less than `bound`, which is not zero.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % bound
    }

    /// A range of one to four of `pages` pages.
    fn range(&mut self, pages: u64) -> AddressRange {
        let len = 1 + self.below(pages.min(4));
        let start = self.below(pages - len + 1);
        AddressRange::new(start * PAGE_SIZE, len * PAGE_SIZE).unwrap_or(AddressRange::ALL)
    }
}
