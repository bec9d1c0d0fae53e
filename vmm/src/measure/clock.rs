//! From the guest's time stamps to durations: what taking the time costs, and how fine it is.

use std::num::NonZeroU32;

/// What a pair of time stamps around nothing says of the clock. In ticks of the guest's counter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timer {
    /// What a pair costs: the mean of the middle half of many, as a counter that steps shows one pair only to the step.
    pub cost: f64,
    /// How far apart neighbouring values lie: the widest gap in the middle nine tenths of the pairs. Shorter durations
    /// cannot be told apart. Zero if all were equal.
    pub step: u64,
}

/// Turns what the guest recorded into durations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    tsc_khz: NonZeroU32,
    timer: Timer,
}

impl Timer {
    /// What these pairs of time stamps around nothing say; `None` if there are none.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "2^53 ticks are a month")]
    pub fn of(mut pairs: Vec<u64>) -> Option<Self> {
        pairs.sort_unstable();
        let middle = &pairs[pairs.len() / 4..pairs.len() - pairs.len() / 4];
        if middle.is_empty() {
            return None;
        }
        let cost = middle.iter().map(|pair| *pair as f64).sum::<f64>() / middle.len() as f64;
        let common = &pairs[pairs.len() / 20..pairs.len() - pairs.len() / 20];
        let step = common.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        Some(Self { cost, step })
    }
}

impl Clock {
    pub(super) const fn new(tsc_khz: NonZeroU32, timer: Timer) -> Self {
        Self { tsc_khz, timer }
    }

    /// How long so many ticks are, in nanoseconds.
    #[expect(clippy::cast_precision_loss, reason = "2^53 ticks are a month")]
    pub(super) fn ns(self, ticks: u64) -> f64 {
        ticks as f64 * 1e6 / f64::from(self.tsc_khz.get())
    }

    /// A recorded duration without the cost of the time stamps, in whole ticks.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a float that is no number of ticks becomes the nearest that is"
    )]
    pub(super) fn net(self, ticks: u64) -> u64 {
        (ticks as f64 - self.timer.cost).round() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_is_between_the_steps_of_a_coarse_counter() {
        // A counter that steps by 24, give or take one; a quarter of the pairs seen one step longer; an interrupt.
        let mut pairs =
            [48, 48, 49, 72, 48, 48, 72, 48, 48, 49, 72, 48, 48, 49, 72, 48, 48, 48, 72, 48].to_vec();
        pairs.push(5000);

        let timer = Timer::of(pairs).unwrap();

        assert_eq!(timer.step, 23);
        assert!((48.0..54.0).contains(&timer.cost), "{timer:?}");
        assert_eq!(Timer::of(Vec::new()), None);
        assert_eq!(Timer::of(vec![7]), Some(Timer { cost: 7.0, step: 0 }));
    }

    #[test]
    fn the_cost_is_subtracted_down_to_zero() {
        let khz = NonZeroU32::new(2_000_000).unwrap();
        let clock = Clock::new(khz, Timer { cost: 50.4, step: 0 });

        assert_eq!([40, 50, 51, 151].map(|ticks| clock.net(ticks)), [0, 0, 1, 101]);
        assert!((clock.ns(3) - 1.5).abs() < 1e-9);
    }
}
