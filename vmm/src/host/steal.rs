//! How much of the CPUs an outer host took away during a run.

use super::{environment::STEAL_PERCENT, tree::Tree};
use crate::report;

/// Fewer ticks of the kernel's clock than this (0.2 s at 100 Hz) cannot resolve the 5% that a warning begins at.
const FEWEST_TICKS: u64 = 20;

/// Measures steal from the moment it is made.
#[derive(Clone, Copy, Debug)]
pub struct StealClock {
    started: Option<CpuTicks>,
}

/// Time of all CPUs together since the machine started, in ticks of the kernel's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CpuTicks {
    /// In which something ran, guests included.
    ran: u64,
    /// In which something was to run, and the outer host ran something else.
    stolen: u64,
}

impl StealClock {
    /// Starts measuring.
    #[must_use]
    pub fn start() -> Self {
        Self::start_in(Tree::system())
    }

    /// The share of the time that the CPUs wanted to run since the start and did not get, in percent; `None` where
    /// the kernel does not say or too little ran to tell.
    ///
    /// Idle time is left out of it, so that a run on one CPU of many shows what that CPU lost.
    #[must_use]
    pub fn percent(&self) -> Option<f64> {
        self.percent_in(Tree::system())
    }

    /// Writes the share into the host's environment as `steal_percent`, for [`warnings()`](super::warnings()) to see.
    pub fn record(&self, host: &mut report::Host) {
        if let Some(percent) = self.percent() {
            let value = format!("{percent:.1}");
            host.environment.insert(STEAL_PERCENT.to_owned(), value);
        }
    }

    fn start_in(tree: Tree<'_>) -> Self {
        Self { started: CpuTicks::read(tree) }
    }

    fn percent_in(&self, tree: Tree<'_>) -> Option<f64> {
        let (start, now) = (self.started?, CpuTicks::read(tree)?);
        let ran = now.ran.saturating_sub(start.ran);
        let stolen = now.stolen.saturating_sub(start.stolen);
        let wanted = ran.saturating_add(stolen);
        (wanted >= FEWEST_TICKS).then(|| as_f64(stolen) / as_f64(wanted) * 100.0)
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact for 2^53 ticks, which is millions of years")]
fn as_f64(ticks: u64) -> f64 {
    ticks as f64
}

impl CpuTicks {
    /// The line of all CPUs in /proc/stat: user nice system idle iowait irq softirq steal, then guest and
    /// `guest_nice`, which user and nice contain already.
    fn read(tree: Tree<'_>) -> Option<Self> {
        let text = tree.text("proc/stat")?;
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let &[user, nice, system, _idle, _iowait, irq, softirq, stolen, ..] = ticks.as_slice() else {
            return None;
        };
        let ran = [user, nice, system, irq, softirq].into_iter().fold(0, u64::saturating_add);
        Some(Self { ran, stolen })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::FakeTree;
    use super::*;

    fn stat(line: &str) -> FakeTree {
        FakeTree::with(&[("proc/stat", &format!("{line}\ncpu0 1 1 1 1 1 1 1 1 1 1\n"))])
    }

    #[track_caller]
    fn percent(before: &str, after: &str) -> Option<f64> {
        StealClock::start_in(stat(before).tree()).percent_in(stat(after).tree())
    }

    #[test]
    fn the_share_is_of_the_time_that_was_wanted() {
        let before = "cpu  100 10 20 1000 5 1 2 50 30 0";
        let after = "cpu  150 15 40 9000 9 11 12 55 60 0";

        // 50 + 5 + 20 + 10 + 10 ran, 5 were stolen; 8000 idle ones do not count.
        assert_eq!(percent(before, after), Some(5.0));
    }

    #[test]
    fn a_run_that_is_too_short_tells_nothing() {
        assert_eq!(percent("cpu  0 0 0 0 0 0 0 0", "cpu  18 0 0 500 0 0 0 1"), None);
        assert_eq!(percent("cpu  0 0 0 0 0 0 0 0", "cpu  15 0 0 500 0 0 0 5"), Some(25.0));
    }

    #[test]
    fn a_kernel_that_does_not_count_steal_tells_nothing() {
        assert_eq!(percent("cpu  0 0 0 0", "cpu  500 0 0 500"), None);
        assert_eq!(percent("intr 0", "intr 1"), None);
    }

    #[test]
    fn counters_that_went_backwards_count_as_none() {
        assert_eq!(percent("cpu  100 0 0 0 0 0 0 9", "cpu  200 0 0 0 0 0 0 3"), Some(0.0));
    }
}
