//! How far the guest's time stamp counter is behind the host's.
//!
//! Both count alike, from different beginnings. Each KVM_RUN is between two looks at the host's counter, and the guest
//! looks at its own at the start and at the end of a command:
//!
//! ```text
//! host   entered ---------------------------------- left
//! guest            | way in | start ... end | way out |
//! ```
//! So the difference of the two is at least `entered - start` and at most `left - end`. Every command narrows it down, to the
//! shortest ways in and out that were seen.
//!
//! Where those bounds hold zero, the guest reads the host's counter itself. KVM has the counter of a new VM begin at zero,
//! so that the difference is what the host has counted since it was started: it is not within microseconds of zero by
//! chance. So it is where guests run at a privilege at which the processor does not add an offset.

use crate::machine::Done;

/// Bounds of host less guest, in ticks, from the commands of one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    least: i64,
    most: i64,
}

/// How to tell the host's time from the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offset {
    /// Host less guest, in ticks.
    pub(super) ticks: i64,
    /// How far that may be off in either direction.
    pub(super) error: u64,
}

impl Bounds {
    /// Nothing is known.
    pub(super) const NONE: Self = Self { least: i64::MIN, most: i64::MAX };

    /// What a command says, along with what is known.
    pub(super) fn narrowed(self, done: &Done) -> Self {
        let guest = &done.outcome;
        Self {
            least: self.least.max(difference(done.entered_tsc, guest.start_tsc)),
            most: self.most.min(difference(done.left_tsc, guest.end_tsc)),
        }
    }

    /// Zero if that is possible, else the middle; `None` if nothing was learned, or if the counters do not count alike.
    pub(super) fn offset(self) -> Option<Offset> {
        let width = self.most.checked_sub(self.least).and_then(|width| u64::try_from(width).ok())?;
        if (self.least..=self.most).contains(&0) {
            return Some(Offset { ticks: 0, error: 0 });
        }
        Some(Offset { ticks: self.least.midpoint(self.most), error: width.div_ceil(2) })
    }
}

/// `a - b`, for counters that wrap.
const fn difference(a: u64, b: u64) -> i64 {
    a.wrapping_sub(b).cast_signed()
}

impl Offset {
    /// What the host's counter showed when the guest's showed `guest`.
    pub(super) const fn host(self, guest: u64) -> u64 {
        guest.wrapping_add_signed(self.ticks)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{driver::Outcome, machine::HostThreadFaults, report::KvmFaults};

    fn done(host: std::ops::Range<u64>, start_tsc: u64, end_tsc: u64) -> Done {
        Done {
            outcome: Outcome { start_tsc, end_tsc, ..Outcome::default() },
            kvm_run_ns: 0,
            entered_tsc: host.start,
            left_tsc: host.end,
            kvm: KvmFaults::default(),
            host: HostThreadFaults::default(),
        }
    }

    #[test]
    fn nothing_is_known_of_no_command() {
        assert_eq!(Bounds::NONE.offset(), None);
    }

    #[test]
    fn counters_that_drift_have_no_offset() {
        let bounds = Bounds::NONE.narrowed(&done(1000..1100, 0, 90)).narrowed(&done(3000..3100, 3000, 3090));

        assert_eq!(bounds.offset(), None);
    }

    #[test]
    fn a_guest_that_reads_the_hosts_counter_has_no_offset() {
        let bounds = Bounds::NONE.narrowed(&done(5000..9000, 6000, 8500));

        assert_eq!(bounds.offset(), Some(Offset { ticks: 0, error: 0 }));
    }

    proptest! {
        #[test]
        fn the_offset_is_within_its_error(
            offset in -1_i64 << 40..1 << 40,
            commands in prop::collection::vec((1_u64 << 41..1 << 42, 0_u64..500, 0_u64..500, 0_u64..500), 1..20),
        ) {
            let mut bounds = Bounds::NONE;
            for &(entered, into, work, out) in &commands {
                let guest = |host: u64| host.wrapping_add_signed(-offset);
                let left = entered + into + work + out;
                bounds = bounds.narrowed(&done(entered..left, guest(entered + into), guest(left - out)));
            }

            let found = bounds.offset().unwrap();

            prop_assume!(found.ticks != 0);
            prop_assert!(found.ticks.abs_diff(offset) <= found.error);
            let shortest = commands.iter().map(|&(_, into, _, out)| into + out).min().unwrap();
            prop_assert!(found.error <= shortest.div_ceil(2));
            prop_assert_eq!(found.host(7), 7_u64.wrapping_add_signed(found.ticks));
        }
    }
}
