//! How long so many ticks of the host's time stamp counter are.

use std::time::Instant;

use crate::machine::tsc;

/// Two clocks that were read together once, and are again when it is asked: their rates are compared over all that time.
#[derive(Clone, Copy, Debug)]
pub(super) struct TickClock {
    ticks: u64,
    instant: Instant,
}

impl TickClock {
    pub(super) fn start() -> Self {
        Self { ticks: tsc::now(), instant: Instant::now() }
    }

    /// How long `ticks` are, in nanoseconds.
    pub(super) fn nanoseconds(&self, ticks: u64) -> u64 {
        let passed = tsc::now().saturating_sub(self.ticks);
        convert(ticks, passed, self.instant.elapsed().as_nanos())
    }
}

/// How long `ticks` are, if `passed` ticks took `nanoseconds`.
fn convert(ticks: u64, passed: u64, nanoseconds: u128) -> u64 {
    u64::try_from(u128::from(ticks) * nanoseconds / u128::from(passed.max(1))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_told_by_the_rate_of_the_clocks() {
        assert_eq!(convert(1000, 3000, 1000), 333);
        assert_eq!(convert(1 << 40, 3 << 50, 1 << 50), (1 << 40) / 3);
        assert_eq!(convert(7, 0, 0), 0);
        assert_eq!(convert(u64::MAX, 1, 1 << 40), u64::MAX);
    }
}
