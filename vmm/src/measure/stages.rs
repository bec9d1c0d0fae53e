//! What the time of a fault goes into that this process resolved.
//!
//! ```text
//! guest    touches ................................................ next instruction
//! handler              has it ....... has the entry, wakes
//!          <-- wake --><-- resolve --><-------- resume -------->
//! ```
//! The guest stamps the ends of a touch, the handler what lies between; the guest's stamps are told in the host's time.
//! So the three add up to the touch. To wake (UFFDIO_WAKE, the signal to the other processor, the thread that is scheduled
//! there) is part of the guest's way back, as is KVM's second look for the entry: the guest may go on before the call that
//! wakes it has returned. Where it went on before it was woken, as the entry was there already, there is no time to resume.
//!
//! Touches and faults find each other by their page and by their time: of several touches of one page it is that in
//! which the handler got the fault. A fault in none was taken by nobody who was being timed, and is left out.

use std::collections::HashMap;

use guest_mem::FaultTrace;
use hdrhistogram::{CreationError, Histogram};

use super::{histogram, offset::Offset};
use crate::driver::TimedTouch;

/// Bytes of a page that a fault is for.
const PAGE: u64 = 4096;

/// What the faults' time went into, in ticks.
#[derive(Clone, Debug)]
pub struct Stages {
    /// From the guest's access until its next instruction: all of it.
    pub touch: Histogram<u64>,
    /// From the guest's access until a handler had it.
    pub wake: Histogram<u64>,
    /// From then until the handler was about to wake the guest, or until the guest went on if that came first.
    pub resolve: Histogram<u64>,
    /// From then until the guest's next instruction.
    pub resume: Histogram<u64>,
    /// How far `wake` and `resume` may be off, one by as much too long as the other is too short: the host's and the
    /// guest's counter are known to each other no better.
    pub error: u64,
}

/// Touches that may have waited for a fault, by the page that they touched.
#[derive(Debug, Default)]
pub(super) struct SlowTouches(HashMap<u64, Vec<Slow>>);

/// One of them, in the host's time.
#[derive(Clone, Copy, Debug)]
struct Slow {
    start: u64,
    end: u64,
    error: u64,
}

impl SlowTouches {
    /// Adds a touch of the guest-physical `address` by a vCPU whose counter is `offset` away from the host's.
    pub(super) fn add(&mut self, address: u64, touch: TimedTouch, offset: Offset) {
        let slow =
            Slow { start: offset.host(touch.start), end: offset.host(touch.end()), error: offset.error };
        self.0.entry(address / PAGE).or_default().push(slow);
    }

    /// The stages of all faults that lie in one of the touches.
    pub(super) fn stages(&self, faults: &[FaultTrace]) -> Result<Stages, CreationError> {
        let mut stages = Stages::none()?;
        for fault in faults {
            let touches = self.0.get(&(fault.address / PAGE)).into_iter().flatten();
            let mut holding = touches.filter(|touch| touch.holds(fault));
            if let Some(touch) = holding.next() {
                stages.add(*touch, fault);
            }
        }
        Ok(stages)
    }
}

impl Slow {
    /// Whether the handler got the fault during the touch, as far as one can tell.
    const fn holds(self, fault: &FaultTrace) -> bool {
        self.start <= fault.read.saturating_add(self.error)
            && fault.read <= self.end.saturating_add(self.error)
    }
}

impl Stages {
    /// Of no faults.
    pub(super) fn none() -> Result<Self, CreationError> {
        Ok(Self {
            touch: histogram()?,
            wake: histogram()?,
            resolve: histogram()?,
            resume: histogram()?,
            error: 0,
        })
    }

    fn add(&mut self, touch: Slow, fault: &FaultTrace) {
        self.touch.saturating_record(touch.end.saturating_sub(touch.start));
        self.wake.saturating_record(fault.read.saturating_sub(touch.start));
        self.resolve.saturating_record(fault.resolved.min(touch.end).saturating_sub(fault.read));
        self.resume.saturating_record(touch.end.saturating_sub(fault.resolved));
        self.error = self.error.max(touch.error);
    }

    /// Adds those of another sample.
    pub(super) fn merge(&mut self, other: &Self) {
        self.touch += &other.touch;
        self.wake += &other.wake;
        self.resolve += &other.resolve;
        self.resume += &other.resume;
        self.error = self.error.max(other.error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSET: Offset = Offset { ticks: -1000, error: 3 };

    fn touches(samples: &[(u64, u64, u64)]) -> SlowTouches {
        let mut slow = SlowTouches::default();
        for &(address, start, ticks) in samples {
            slow.add(address, TimedTouch { start, ticks }, OFFSET);
        }
        slow
    }

    fn fault(address: u64, read: u64, resolved: u64) -> FaultTrace {
        FaultTrace { address, read, resolved }
    }

    #[test]
    fn the_stages_add_up_to_the_touch() {
        let stages = touches(&[(0x5008, 2000, 100)]).stages(&[fault(0x5000, 1030, 1050)]).unwrap();

        assert_eq!((stages.wake.max(), stages.resolve.max(), stages.resume.max()), (30, 20, 50));
        assert_eq!(stages.touch.max(), 100);
        assert_eq!(stages.error, 3);
    }

    #[test]
    fn of_several_touches_of_a_page_it_is_the_one_that_the_fault_lies_in() {
        let slow = touches(&[(0x5000, 2000, 100), (0x5010, 5000, 100)]);

        let stages = slow.stages(&[fault(0x5000, 4010, 4020)]).unwrap();

        assert_eq!((stages.wake.len(), stages.wake.max()), (1, 10));
    }

    #[test]
    fn a_fault_in_no_touch_is_left_out() {
        let slow = touches(&[(0x5000, 2000, 100)]);

        let elsewhere = [fault(0x6000, 1030, 1050), fault(0x5000, 900, 1050), fault(0x5000, 1104, 1200)];

        assert_eq!(slow.stages(&elsewhere).unwrap().wake.len(), 0);
    }

    #[test]
    fn a_guest_that_goes_on_before_the_handler_is_done_has_no_time_to_resume() {
        let slow = touches(&[(0x5000, 2000, 100)]);

        let stages = slow.stages(&[fault(0x5000, 1030, 1180)]).unwrap();

        assert_eq!((stages.wake.max(), stages.resolve.max(), stages.resume.max()), (30, 70, 0));
    }

    #[test]
    fn what_the_counters_error_makes_negative_is_zero() {
        let slow = touches(&[(0x5000, 2000, 100)]);

        let stages = slow.stages(&[fault(0x5000, 998, 1100)]).unwrap();

        assert_eq!((stages.wake.len(), stages.wake.max(), stages.resume.max()), (1, 0, 0));
    }
}
