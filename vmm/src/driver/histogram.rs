//! The guest's log-linear histogram: exact below 64 ticks, then 32 buckets an octave, so 3% wide at most.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the casts are of bucket numbers, below 1920, and of values below 64"
)]

/// How many buckets cover all 64-bit values.
pub const BUCKETS: usize = 1920;

/// Values below this are counted exactly.
const EXACT: u64 = 64;

/// How often each range of ticks was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<u64>,
}

impl Histogram {
    /// The histogram with these bucket counts, as the guest left them; missing buckets are empty.
    #[must_use]
    pub fn from_counts(mut counts: Vec<u64>) -> Self {
        counts.resize(BUCKETS, 0);
        Self { counts }
    }

    /// The bucket that counts `ticks`: the same arithmetic as the guest's.
    #[must_use]
    pub const fn bucket(ticks: u64) -> usize {
        if ticks < EXACT {
            return ticks as usize;
        }
        let octave = ticks.ilog2() - 5;
        ((octave as usize) << 5) + (ticks >> octave) as usize
    }

    /// The smallest and the largest value that `bucket` counts.
    #[must_use]
    pub const fn bounds(bucket: usize) -> (u64, u64) {
        if bucket < EXACT as usize {
            return (bucket as u64, bucket as u64);
        }
        let octave = (bucket >> 5) as u32 - 1;
        let low = (((bucket & 31) | 32) as u64) << octave;
        (low, low + ((1 << octave) - 1))
    }

    /// Every bucket that counted something: the middle of its range, and how many.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bucket, count)| {
            let (low, high) = Self::bounds(bucket);
            (low.midpoint(high), *count)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_buckets_end_where_the_values_do() {
        assert_eq!(Histogram::bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(Histogram::bounds(BUCKETS - 1).1, u64::MAX);
    }

    proptest! {
        #[test]
        fn a_value_lies_within_its_bucket(bits in 0_u32..64, value: u64) {
            let value = value >> bits;
            let (low, high) = Histogram::bounds(Histogram::bucket(value));

            prop_assert!((low..=high).contains(&value));
            prop_assert!(high - low <= low / 32, "at most 3% wide");
        }

        #[test]
        fn buckets_follow_each_other(bucket in 1..BUCKETS) {
            prop_assert_eq!(Histogram::bounds(bucket - 1).1 + 1, Histogram::bounds(bucket).0);
        }
    }
}
