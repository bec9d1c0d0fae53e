//! The word that the guest's fill phase writes at an address, and that its verify phase expects there.

/// The pattern of the 8-byte word at guest-physical `address` under `seed`.
///
/// One multiplication and one shift: cheap enough to be bound by memory, and different for neighbouring addresses,
/// so that a page in another's place is noticed.
#[must_use]
pub const fn pattern(address: u64, seed: u64) -> u64 {
    let mixed = (address ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn different_addresses_have_different_patterns(a: u64, b: u64, seed: u64) {
            prop_assert_eq!(a == b, pattern(a, seed) == pattern(b, seed));
        }
    }
}
