//! From samples and histograms of ticks to the figures of the report.

use std::num::NonZeroU32;

use hdrhistogram::Histogram;

use super::format::float;
use super::{Latency, Spread};

impl Spread {
    /// The spread of these samples; `None` if there are none.
    #[must_use]
    pub fn of(samples: &[u64]) -> Option<Self> {
        Some(Self {
            min: *samples.iter().min()?,
            median: samples[median_index(samples)?],
            max: *samples.iter().max()?,
        })
    }
}

/// Which of the samples is their median, so that everything else can be reported of that sample; of an even number
/// the smaller of the middle two, among equals the earliest that is in the middle. `None` if there are none.
#[must_use]
pub fn median_index(samples: &[u64]) -> Option<usize> {
    let middle = samples.len().checked_sub(1)? / 2;
    let mut order: Vec<usize> = (0..samples.len()).collect();
    let (_, median, _) = order.select_nth_unstable_by_key(middle, |&index| (samples[index], index));
    Some(*median)
}

impl Latency {
    /// The distribution of the durations in `ticks`, in nanoseconds, to the tenth. `None` if there are none.
    ///
    /// A quantile is the smallest recorded duration that so large a part of all does not exceed. It is as exact as
    /// the histogram; with three significant digits at most 0.1% too long.
    #[must_use]
    pub fn of_ticks(ticks: &Histogram<u64>, tsc_khz: NonZeroU32) -> Option<Self> {
        if ticks.is_empty() {
            return None;
        }
        let quantile = |quantile| ticks_to_ns(ticks.value_at_quantile(quantile), tsc_khz);
        Some(Self {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: ticks_to_ns(ticks.max(), tsc_khz),
            mean: nanoseconds(ticks.mean(), tsc_khz),
        })
    }
}

/// How long `ticks` of a counter of this frequency are, in nanoseconds, to the tenth.
#[must_use]
pub fn ticks_to_ns(ticks: u64, tsc_khz: NonZeroU32) -> f64 {
    nanoseconds(float(ticks), tsc_khz)
}

/// How long so many ticks are, parts of one included, in nanoseconds, to the tenth.
pub(crate) fn nanoseconds(ticks: f64, tsc_khz: NonZeroU32) -> f64 {
    (ticks * 1e7 / f64::from(tsc_khz.get())).round() / 10.0
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A tick is half a nanosecond.
    const TWO_GHZ: NonZeroU32 = NonZeroU32::new(2_000_000).unwrap();

    fn histogram(ticks: &[u64]) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).unwrap();
        for &value in ticks {
            histogram.record(value).unwrap();
        }
        histogram
    }

    #[test]
    fn nothing_has_no_figures() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(median_index(&[]), None);
        assert_eq!(Latency::of_ticks(&histogram(&[]), TWO_GHZ), None);
    }

    #[test]
    fn the_median_of_an_even_number_is_the_smaller_of_the_middle_two() {
        let samples = [40, 10, 30, 20];

        assert_eq!(Spread::of(&samples), Some(Spread { min: 10, median: 20, max: 40 }));
        assert_eq!(median_index(&samples), Some(3));
    }

    #[test]
    fn the_longest_possible_duration_is_no_overflow() {
        let latency = Latency::of_ticks(&histogram(&[u64::MAX]), NonZeroU32::MIN).unwrap();

        assert!(latency.max.is_finite());
    }

    proptest! {
        #[test]
        fn the_median_is_where_sorting_puts_it(samples in vec(0_u64..50, 1..40)) {
            let mut sorted = samples.clone();
            sorted.sort_unstable();

            let spread = Spread::of(&samples).unwrap();

            prop_assert_eq!(spread.median, sorted[(sorted.len() - 1) / 2]);
            prop_assert_eq!((spread.min, spread.max), (sorted[0], sorted[sorted.len() - 1]));
            prop_assert_eq!(samples[median_index(&samples).unwrap()], spread.median);
        }

        #[test]
        fn latencies_are_those_of_the_sorted_durations(ticks in vec(0_u64..2_000_000, 1..400)) {
            let mut sorted: Vec<f64> = ticks.iter().map(|ticks| float(*ticks) / 2.0).collect();
            sorted.sort_unstable_by(f64::total_cmp);
            let quantile = |permille: usize| sorted[(sorted.len() * permille).div_ceil(1000) - 1];

            let latency = Latency::of_ticks(&histogram(&ticks), TWO_GHZ).unwrap();

            // 0.1% of the duration, and the rounding to a tenth.
            let near = |found: f64, expected: f64| (found - expected).abs() <= expected * 0.001 + 0.05;
            prop_assert!(near(latency.p50, quantile(500)));
            prop_assert!(near(latency.p90, quantile(900)));
            prop_assert!(near(latency.p99, quantile(990)));
            prop_assert!(near(latency.p999, quantile(999)));
            prop_assert!(near(latency.max, quantile(1000)));
            prop_assert!(near(latency.mean, sorted.iter().sum::<f64>() / float(sorted.len() as u64)));
        }
    }
}
