//! Says where a silent guest is.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use super::{Whereabouts, failure::Place};
use crate::boot::Symbols;

/// Notices that a guest has written nothing for a while.
#[derive(Debug)]
pub(super) struct Watchdog {
    patience: Duration,
    written: u64,
    since: Instant,
}

impl Watchdog {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, written: 0, since: Instant::now() }
    }

    /// How long until it is worth a look again, at `now`.
    pub(super) fn due_in(&self, now: Instant) -> Duration {
        self.patience.saturating_sub(now.duration_since(self.since))
    }

    /// Whether the guest, which has `written` so many bytes by `now`, has been silent for too long. Then it has as long again.
    pub(super) fn is_silent(&mut self, written: u64, now: Instant) -> bool {
        if written != self.written {
            (self.written, self.since) = (written, now);
            return false;
        }
        let is_silent = now.duration_since(self.since) >= self.patience;
        if is_silent {
            self.since = now;
        }
        is_silent
    }

    /// What is told of vCPUs that are there.
    pub(super) fn report(&self, vcpus: &[Whereabouts], symbols: &Symbols) -> String {
        let mut text = format!("the guest has written nothing for {} s", self.patience.as_secs_f64());
        for (id, vcpu) in vcpus.iter().enumerate() {
            // Writing to a string does not fail.
            let _infallible = match vcpu {
                Whereabouts::Guest(registers) if registers.general.rip == 0xfff0 => {
                    write!(text, "\nvCPU {id}: waits to be started by another")
                }
                Whereabouts::Guest(registers) => {
                    let halted = if registers.is_halted { "halted, " } else { "" };
                    let place = Place { address: registers.general.rip, symbols };
                    write!(text, "\nvCPU {id}: {halted}{place} rflags {:#x}", registers.general.rflags)
                }
                Whereabouts::Unknown => write!(text, "\nvCPU {id}: KVM does not say where it is"),
                Whereabouts::Stuck => write!(
                    text,
                    "\nvCPU {id}: does not leave KVM, which is busy with something that the guest had it do: a hypercall \
                     that never ends, for one"
                ),
                Whereabouts::Ended => write!(text, "\nvCPU {id}: has ended"),
            };
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::Registers;

    #[test]
    fn only_silence_is_noticed_and_again_after_as_long() {
        let mut watchdog = Watchdog::new(Duration::from_secs(10));
        let start = watchdog.since;
        let at = |seconds| start + Duration::from_secs(seconds);

        assert!(!watchdog.is_silent(5, at(9)), "it wrote");
        assert!(!watchdog.is_silent(5, at(18)));
        assert!(watchdog.is_silent(5, at(19)));
        assert!(!watchdog.is_silent(5, at(28)));
        assert!(watchdog.is_silent(5, at(29)));
        assert_eq!(watchdog.due_in(at(32)), Duration::from_secs(7));
    }

    #[test]
    fn each_vcpu_is_told_of() {
        let watchdog = Watchdog::new(Duration::from_secs(2));
        let mut registers = Registers { is_halted: true, ..Registers::default() };
        registers.general.rip = 0x1234;
        let vcpus = [Whereabouts::Guest(registers), Whereabouts::Stuck, Whereabouts::Ended];

        let text = watchdog.report(&vcpus, &Symbols::default());

        assert!(
            text.starts_with("the guest has written nothing for 2 s\nvCPU 0: halted, rip 0x0000000000001234")
        );
        assert!(text.contains("\nvCPU 1: does not leave KVM"), "{text}");
        assert!(text.ends_with("\nvCPU 2: has ended"), "{text}");
    }
}
