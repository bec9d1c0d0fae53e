//! A permutation of `[0, count)` that needs no table: the guest computes it beside each touch.
//!
//! On numbers of `k` bits, with `2^k` the first power of two that holds `count`, these steps are each reversible:
//! multiply by an odd number; exclusive-or with itself shifted right; add. Their composition permutes `[0, 2^k)`.
//! Walking the cycle that an index lies on until it comes below `count` again permutes `[0, count)`; as `count` is
//! more than half of `2^k`, that takes less than two rounds on average.

/// The constants of one permutation. The guest reads them from its mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permutation {
    pub(super) count: u64,
    pub(super) mask: u64,
    pub(super) shift: u64,
    pub(super) mul1: u64,
    pub(super) mul2: u64,
    pub(super) add: u64,
}

impl Permutation {
    /// The permutation of `[0, count)` that `seed` selects. `count` is at most 2^63.
    #[must_use]
    pub fn new(count: u64, seed: u64) -> Self {
        let bits = u64::BITS - count.max(2).saturating_sub(1).leading_zeros();
        let mut state = seed;
        Self {
            count,
            mask: (1 << bits) - 1,
            shift: u64::from(bits.div_ceil(2)),
            mul1: split_mix(&mut state) | 1,
            mul2: split_mix(&mut state) | 1,
            add: split_mix(&mut state),
        }
    }

    /// Where index `index`, below the count, goes to.
    #[must_use]
    pub fn apply(&self, index: u64) -> u64 {
        let mut x = index;
        loop {
            x = x.wrapping_mul(self.mul1) & self.mask;
            x ^= x >> self.shift;
            x = x.wrapping_mul(self.mul2).wrapping_add(self.add) & self.mask;
            x ^= x >> self.shift;
            if x < self.count {
                return x;
            }
        }
    }
}

/// The next number of the SplitMix64 sequence (Steele, Lea and Flood, 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_index_is_hit_exactly_once(count in 1_u64..5000, seed: u64) {
            let permutation = Permutation::new(count, seed);
            let mut hit = vec![false; usize::try_from(count).unwrap()];

            for index in 0..count {
                let target = usize::try_from(permutation.apply(index)).unwrap();
                prop_assert!(!std::mem::replace(&mut hit[target], true), "{} is hit twice", target);
            }
        }

        #[test]
        fn huge_counts_stay_in_range(count in 1_u64 << 40..1 << 62, index in 0_u64..1 << 40, seed: u64) {
            prop_assert!(Permutation::new(count, seed).apply(index) < count);
        }
    }

    #[test]
    fn neighbours_are_scattered() {
        let permutation = Permutation::new(16384, 1);

        let close =
            (1..16384).filter(|&i| permutation.apply(i).abs_diff(permutation.apply(i - 1)) < 16).count();

        // Of a random permutation about 0.2% of the steps are that short; 1% would help a prefetcher.
        assert!(close < 164, "{close} of 16383 steps are short");
    }
}
