//! Sizes in bytes, as people write them.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

/// The suffixes, largest first, with the number of bits each shifts by.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// A number of bytes that is never zero.
///
/// Parsed strictly from decimal digits and at most one binary suffix, `K`, `M`, `G` or `T` in either case: `"64M"`,
/// `"1g"`, `"4096"`. Shown in the largest unit that holds it exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(NonZeroU64);

/// Why a text is not a [`ByteSize`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSizeError {
    /// There was no text.
    #[error("the size is empty; write it like 64M, 1G or 4096")]
    Empty,
    /// What stands before the suffix is not a whole number in decimal digits.
    #[error("the size {text:?} is not a whole number of bytes; write it like 64M, 1G or 4096")]
    NotANumber {
        /// The text as given.
        text: String,
    },
    /// The letters after the number name no unit.
    #[error("the size {text:?} ends in {suffix:?}, which is no unit; use K, M, G or T (powers of 1024)")]
    UnknownSuffix {
        /// The text as given.
        text: String,
        /// The letters after the number.
        suffix: String,
    },
    /// The number is zero.
    #[error("the size {text:?} is zero; give at least one page")]
    Zero {
        /// The text as given.
        text: String,
    },
    /// The number of bytes does not fit in 64 bits.
    #[error("the size {text:?} does not fit in 64 bits")]
    Overflow {
        /// The text as given.
        text: String,
    },
}

impl ByteSize {
    /// A size of `bytes`; `None` if that is zero.
    #[must_use]
    pub const fn new(bytes: u64) -> Option<Self> {
        match NonZeroU64::new(bytes) {
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }

    /// The number of bytes; never zero.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0.get()
    }
}

impl FromStr for ByteSize {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ParseSizeError::Empty);
        }
        let owned = || text.to_owned();
        let digits = text.trim_end_matches(char::is_alphabetic);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ParseSizeError::NotANumber { text: owned() });
        }
        let suffix = &text[digits.len()..];
        let shift = shift_of(suffix)
            .ok_or_else(|| ParseSizeError::UnknownSuffix { text: owned(), suffix: suffix.to_owned() })?;
        // Only digits are left, so parsing can fail for one reason.
        let bytes = digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(1 << shift))
            .ok_or_else(|| ParseSizeError::Overflow { text: owned() })?;
        Self::new(bytes).ok_or_else(|| ParseSizeError::Zero { text: owned() })
    }
}

fn shift_of(suffix: &str) -> Option<u32> {
    if suffix.is_empty() {
        return Some(0);
    }
    UNITS
        .iter()
        .find(|(unit, _)| suffix.eq_ignore_ascii_case(unit.encode_utf8(&mut [0; 4])))
        .map(|&(_, shift)| shift)
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes();
        match UNITS.iter().find(|&&(_, shift)| bytes.trailing_zeros() >= shift) {
            Some((unit, shift)) => f.pad(&format!("{}{unit}", bytes >> shift)),
            None => f.pad(&bytes.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn parse(text: &str) -> Result<u64, ParseSizeError> {
        text.parse::<ByteSize>().map(ByteSize::bytes)
    }

    #[test]
    fn sizes_as_people_write_them() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("4k"), Ok(4096));
        assert_eq!(parse("64M"), Ok(64 << 20));
        assert_eq!(parse("1g"), Ok(1 << 30));
        assert_eq!(parse("2T"), Ok(2 << 40));
    }

    #[test]
    fn each_bad_size_has_its_own_error() {
        let text = |text: &str| text.to_owned();
        assert_eq!(parse(""), Err(ParseSizeError::Empty));
        for bad in ["M", "-1", "+1", "1.5G", "0x10", " 1", "1 ", "1 M", "1_000", "²"] {
            assert_eq!(parse(bad), Err(ParseSizeError::NotANumber { text: text(bad) }));
        }
        for (bad, suffix) in [("64MB", "MB"), ("4KiB", "KiB"), ("1P", "P"), ("1é", "é")] {
            assert_eq!(
                parse(bad),
                Err(ParseSizeError::UnknownSuffix { text: text(bad), suffix: text(suffix) })
            );
        }
        for bad in ["0", "00", "0G"] {
            assert_eq!(parse(bad), Err(ParseSizeError::Zero { text: text(bad) }));
        }
        for bad in ["18446744073709551616", "16777216T", "99999999999999999999K"] {
            assert_eq!(parse(bad), Err(ParseSizeError::Overflow { text: text(bad) }));
        }
    }

    #[test]
    fn shown_in_the_largest_exact_unit() {
        let shown = |bytes| ByteSize::new(bytes).unwrap().to_string();
        assert_eq!(shown(64 << 20), "64M");
        assert_eq!(shown(1536 << 20), "1536M");
        assert_eq!(shown(1 << 40), "1T");
        assert_eq!(shown(4097), "4097");
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_to_itself(bytes in 1_u64.., shift in 0_u32..64) {
            let size = ByteSize::new(bytes.rotate_left(shift)).unwrap();
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        /// Against the naive model: multiply in 128 bits, then see whether it fits.
        #[test]
        fn agrees_with_arithmetic_in_128_bits(number: u64, unit in "[KMGTkmgt]?") {
            let power = match unit.to_uppercase().as_str() { "K" => 1, "M" => 2, "G" => 3, "T" => 4, _ => 0 };
            let model = u64::try_from(u128::from(number) * 1024_u128.pow(power)).ok().filter(|&bytes| bytes != 0);
            prop_assert_eq!(parse(&format!("{number}{unit}")).ok(), model);
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let digits: String = text.chars().filter(char::is_ascii_digit).collect();
            prop_assert!(parse(&text).is_err() || !digits.is_empty());
        }
    }
}
