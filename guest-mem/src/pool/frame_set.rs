//! A set of the 512 frames of a block.

use std::ops::{BitAnd, BitOr, Not, Range};

const WORDS: usize = 8;
const FRAMES: usize = WORDS * 64;

/// A set of frames of one block, by their place in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FrameSet([u64; WORDS]);

impl FrameSet {
    pub(super) const EMPTY: Self = Self([0; WORDS]);
    pub(super) const ALL: Self = Self([u64::MAX; WORDS]);

    /// The frames in `range`, whose end is at most 512.
    pub(super) fn of(range: &Range<usize>) -> Self {
        Self::below(range.end) & !Self::below(range.start)
    }

    /// The frames before `end`.
    fn below(end: usize) -> Self {
        let word = |at: usize| match end.saturating_sub(at * 64) {
            0 => 0,
            bits @ 1..64 => (1 << bits) - 1,
            _ => u64::MAX,
        };
        Self(std::array::from_fn(word))
    }

    pub(super) fn len(self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    pub(super) fn contains_all(self, other: Self) -> bool {
        (other & !self).is_empty()
    }

    /// The first frame.
    pub(super) fn first(self) -> Option<usize> {
        self.next(0)
    }

    /// The first run of frames in a row, cut off after `at_most`.
    pub(super) fn first_run(self, at_most: usize) -> Option<Range<usize>> {
        let start = self.first()?;
        let end = (!self).next(start).unwrap_or(FRAMES);
        Some(start..end.min(start + at_most))
    }

    /// All runs of frames in a row, in ascending order.
    pub(super) fn runs(mut self) -> impl Iterator<Item = Range<usize>> {
        std::iter::from_fn(move || {
            let run = self.first_run(FRAMES)?;
            self = self & !Self::of(&run);
            Some(run)
        })
    }

    /// The first frame at `from` or after it.
    fn next(self, from: usize) -> Option<usize> {
        let rest = self & !Self::below(from);
        let word = rest.0.iter().position(|&word| word != 0)?;
        Some(word * 64 + rest.0[word].trailing_zeros() as usize)
    }

    fn zip(self, other: Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self(std::array::from_fn(|at| combine(self.0[at], other.0[at])))
    }
}

impl BitAnd for FrameSet {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        self.zip(other, |a, b| a & b)
    }
}

impl BitOr for FrameSet {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.zip(other, |a, b| a | b)
    }
}

impl Not for FrameSet {
    type Output = Self;

    fn not(self) -> Self {
        Self(self.0.map(|word| !word))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sets() -> impl Strategy<Value = FrameSet> {
        proptest::collection::vec((0..FRAMES, 0..=FRAMES), 0..6).prop_map(|ends| {
            ends.iter().fold(FrameSet::EMPTY, |set, &(a, b)| set | FrameSet::of(&(a.min(b)..b)))
        })
    }

    fn members(set: FrameSet) -> Vec<usize> {
        (0..FRAMES).filter(|&frame| set.contains_all(FrameSet::of(&(frame..frame + 1)))).collect()
    }

    proptest! {
        #[test]
        fn a_range_has_its_frames_and_no_others(start in 0..=FRAMES, len in 0..=FRAMES) {
            let range = start..(start + len).min(FRAMES);

            prop_assert_eq!(members(FrameSet::of(&range)), range.collect::<Vec<_>>());
        }

        #[test]
        fn runs_are_the_frames_in_order_with_gaps_between(set in sets()) {
            let runs: Vec<_> = set.runs().collect();

            prop_assert_eq!(runs.iter().flat_map(Clone::clone).collect::<Vec<_>>(), members(set));
            prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert_eq!(set.len(), members(set).len());
        }

        #[test]
        fn a_first_run_is_cut_off(set in sets(), at_most in 1..FRAMES) {
            let run = set.first_run(at_most);

            let whole = set.runs().next();
            prop_assert_eq!(run, whole.map(|run| run.start..run.end.min(run.start + at_most)));
        }
    }
}
