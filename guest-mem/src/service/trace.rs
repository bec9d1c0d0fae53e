//! When a handler had a fault, and when it had resolved it.
//!
//! ```text
//! vCPU      touches, leaves the guest                              wakes, asks for its entry again, goes on
//! handler                              reads .... entry .... UFFDIO_WAKE
//!                                      ^ read                ^ resolved: just before
//! ```
//! Who is woken may go on before the call that wakes returns, on another processor. So the call counts as the way back,
//! all of it: a stamp behind it would say that there was none.

use mmu_notifier::sync::{Mutex, lock};

/// One fault that a handler resolved; times are in ticks of the host's time stamp counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultTrace {
    /// The guest-physical address of the page, in bytes.
    pub address: u64,
    /// When the handler had read the event.
    pub read: u64,
    /// Just before whoever waited was woken; where that was left to somebody else, when this handler was done with it.
    pub resolved: u64,
}

/// The latest faults of a handler: a ring, filled without an allocation.
#[derive(Debug)]
pub(super) struct Trace {
    /// A leaf; nobody but its handler takes it while the guest runs.
    ring: Mutex<Ring>,
    room: usize,
}

#[derive(Debug, Default)]
struct Ring {
    faults: Vec<FaultTrace>,
    next: usize,
}

impl Trace {
    pub(super) fn new(room: usize) -> Self {
        Self { ring: Mutex::new(Ring { faults: Vec::with_capacity(room), next: 0 }), room }
    }

    /// Keeps `fault`, in the place of the oldest if there is no room.
    pub(super) fn keep(&self, fault: FaultTrace) {
        if self.room == 0 {
            return;
        }
        let mut ring = lock(&self.ring);
        let at = ring.next;
        match ring.faults.get_mut(at) {
            Some(oldest) => *oldest = fault,
            None => ring.faults.push(fault),
        }
        ring.next = (at + 1) % self.room;
    }

    /// What is kept, the oldest first; nothing is kept any more.
    pub(super) fn take(&self) -> Vec<FaultTrace> {
        let mut ring = lock(&self.ring);
        let at = ring.next.min(ring.faults.len());
        ring.faults.rotate_left(at % self.room.max(1));
        ring.next = 0;
        let kept = ring.faults.clone();
        ring.faults.clear();
        kept
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_in_order() {
        let trace = Trace::new(3);
        let addresses = |trace: &Trace| trace.take().iter().map(|fault| fault.address).collect::<Vec<_>>();
        for address in 1..=2 {
            trace.keep(FaultTrace { address, ..FaultTrace::default() });
        }
        assert_eq!(addresses(&trace), [1, 2]);

        for address in 1..=5 {
            trace.keep(FaultTrace { address, ..FaultTrace::default() });
        }

        assert_eq!(addresses(&trace), [3, 4, 5]);
        assert_eq!(addresses(&trace), [0; 0]);
    }
}
