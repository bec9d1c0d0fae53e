//! The thread that touches in a vCPU's place.

use std::{
    sync::{Barrier, RwLock, RwLockWriteGuard},
    time::Instant,
};

use mmu_notifier::sync::{read, write};

use super::{ModelError, nanoseconds};
use crate::{
    driver::{Access, BUCKETS, Histogram},
    interrupt::Interrupt,
    machine::{HostThreadFaults, RunError, pin_to},
    measure::{SampleError, Share},
    model::SecondStage,
};

/// After so many touches a vCPU looks whether it shall stop.
const INTERRUPT_EVERY: u64 = 1 << 12;

/// Where vCPUs wait until all of them are there.
pub(super) struct Start {
    /// Whether all threads could be started. Held for writing until that is known.
    go: RwLock<bool>,
    all: Barrier,
}

/// Keeps those who arrive from starting; dropped without being opened, it sends them away.
pub(super) struct Opening<'a>(RwLockWriteGuard<'a, bool>);

impl Start {
    /// For so many vCPUs.
    pub(super) fn new(vcpus: u32) -> Self {
        Self { go: RwLock::new(false), all: Barrier::new(vcpus as usize) }
    }

    pub(super) fn hold(&self) -> Opening<'_> {
        Opening(write(&self.go))
    }

    /// Returns when all are here, or says no when some will not come.
    fn arrive(&self) -> bool {
        let go = *read(&self.go);
        if go {
            self.all.wait();
        }
        go
    }
}

impl Opening<'_> {
    pub(super) fn open(mut self) {
        *self.0 = true;
    }
}

/// How long touches took, in nanoseconds, time stamps included.
pub(super) enum Durations {
    /// Each, in order.
    All(Vec<u64>),
    /// How many, by bucket.
    Counts(Histogram),
}

/// What one vCPU did.
pub(super) struct Done {
    pub(super) start: Instant,
    pub(super) end: Instant,
    pub(super) touches: u64,
    pub(super) durations: Durations,
    pub(super) host: HostThreadFaults,
}

/// What one vCPU is to do.
pub(super) struct Vcpu<'a> {
    pub(super) id: u32,
    pub(super) share: Share,
    pub(super) access: Access,
    /// The host's CPU for the thread.
    pub(super) cpu: Option<usize>,
    pub(super) keeps_all: bool,
    pub(super) stage: &'a SecondStage,
    pub(super) interrupt: &'a Interrupt,
}

impl Vcpu<'_> {
    /// Touches the share once, together with the others.
    pub(super) fn run(&self, start: &Start) -> Result<Done, SampleError> {
        let pinned = self.cpu.map_or(Ok(()), pin_to);
        let mut all = Vec::with_capacity(if self.keeps_all { self.share.words() } else { 0 });
        let mut counts = vec![0_u64; BUCKETS];
        let arrived = start.arrive();
        pinned.map_err(RunError::Pin)?;
        if !arrived {
            return Err(RunError::Interrupted.into());
        }

        let host_before = HostThreadFaults::now();
        let start = Instant::now();
        for order in 0..self.share.count {
            if order.is_multiple_of(INTERRUPT_EVERY) && self.interrupt.is_raised() {
                return Err(RunError::Interrupted.into());
            }
            let address = self.share.address(order);
            let before = Instant::now();
            self.touch(address)?;
            let took = nanoseconds(before, Instant::now());
            if self.keeps_all {
                all.push(took);
            } else {
                counts[Histogram::bucket(took)] += 1;
            }
        }
        let end = Instant::now();
        let host = HostThreadFaults::now().since(host_before);
        let durations = if self.keeps_all {
            Durations::All(all)
        } else {
            Durations::Counts(Histogram::from_counts(counts))
        };
        Ok(Done { start, end, touches: self.share.count, durations, host })
    }

    fn touch(&self, address: u64) -> Result<(), ModelError> {
        let access = |write| {
            let accessed = self.stage.access_with(address, write, |_| ());
            accessed.map_err(|source| ModelError::Touch { vcpu: self.id, address, source })
        };
        match self.access {
            Access::Nothing => Ok(()),
            Access::Read => access(false),
            Access::Write => access(true),
            Access::ReadWrite => access(false).and_then(|()| access(true)),
        }
    }
}
