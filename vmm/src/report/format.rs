//! Figures as people read them: durations and sizes in their own unit, three significant digits.

/// A duration given in nanoseconds, in the unit that suits it. No more than a tenth of a nanosecond is shown.
pub(super) fn duration(nanoseconds: f64) -> String {
    const UNITS: [&str; 4] = ["ns", "µs", "ms", "s"];
    if !nanoseconds.is_finite() {
        return "-".to_owned();
    }
    let unit = usize::try_from(exponent(nanoseconds) / 3).unwrap_or(0).min(3);
    let value = nanoseconds / [1.0, 1e3, 1e6, 1e9][unit];
    let tenths = if unit == 0 { 1 } else { usize::MAX };
    format!("{:.*} {}", decimals(value).min(tenths), value, UNITS[unit])
}

/// A size in bytes, in the largest unit of which there is one; a whole number of units without decimals.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = bytes.checked_ilog2().unwrap_or(0) / 10;
    let (whole, rest) = (bytes >> (10 * unit), bytes & ((1 << (10 * unit)) - 1));
    let value = match rest {
        0 => whole.to_string(),
        _ => significant(float(bytes) / float(1 << (10 * unit))),
    };
    format!("{value} {}", UNITS[unit as usize])
}

/// A count, with a comma between thousands.
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count of things, with the noun in its number.
pub(super) fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// Three significant digits, and all digits before the point.
pub(super) fn significant(value: f64) -> String {
    format!("{value:.*}", decimals(value))
}

/// The text without characters that would move a terminal's cursor: names come from the user's files.
pub(super) fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// The nearest float.
#[expect(clippy::cast_precision_loss, reason = "53 bits are more than any figure here is shown with")]
pub(super) const fn float(count: u64) -> f64 {
    count as f64
}

/// How many decimals three significant digits need.
fn decimals(value: f64) -> usize {
    usize::try_from(2 - exponent(value)).unwrap_or(0)
}

/// The power of ten of the first of three significant digits: after rounding, so that 999.9 is 1.00e3.
fn exponent(value: f64) -> i32 {
    let scientific = format!("{value:.2e}");
    let power = scientific.split_once('e').and_then(|(_, power)| power.parse().ok());
    power.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_three_significant_digits_and_a_unit() {
        let shown = [0.0, 0.26, 15.27, 480.0, 999.4, 999.6, 31_250.0, 4.8e8, 2e9, 1.2345e12].map(duration);

        assert_eq!(
            shown,
            [
                "0.0 ns", "0.3 ns", "15.3 ns", "480 ns", "999 ns", "1.00 µs", "31.2 µs", "480 ms", "2.00 s",
                "1234 s"
            ]
        );
    }

    #[test]
    fn what_is_not_a_number_is_a_dash() {
        assert_eq!(duration(f64::NAN), "-");
    }

    #[test]
    fn sizes_are_whole_or_rounded() {
        let shown = [0, 1, 4096, 64 << 20, (64 << 20) - 4096, 3 << 29, u64::MAX].map(size);

        assert_eq!(shown, ["0 B", "1 B", "4 KiB", "64 MiB", "64.0 MiB", "1.50 GiB", "16.0 EiB"]);
    }

    #[test]
    fn ratios_keep_three_digits_however_small() {
        let shown = [1.0, 0.0412, 9.996, 1234.5].map(significant);

        assert_eq!(shown, ["1.00", "0.0412", "10.0", "1234"]);
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(printable("file:/a\u{1b}[2Jb\n"), "file:/a\u{fffd}[2Jb\u{fffd}");
    }

    #[test]
    fn nouns_follow_their_number() {
        assert_eq!([counted(1, "vCPU"), counted(2, "vCPU")], ["1 vCPU", "2 vCPUs"]);
    }

    proptest! {
        #[test]
        fn counts_are_their_digits_in_groups_of_three(value: u64) {
            let shown = count(value);

            prop_assert_eq!(shown.replace(',', ""), value.to_string());
            prop_assert!(shown.rsplit(',').skip(1).all(|group| group.len() <= 3 && !group.is_empty()));
            prop_assert!(shown.split(',').skip(1).all(|group| group.len() == 3));
        }

        #[test]
        fn durations_are_within_half_a_percent(nanoseconds in 10.0..1e12) {
            let shown = duration(nanoseconds);
            let (value, unit) = shown.split_once(' ').unwrap();
            let scale = match unit { "ns" => 1.0, "µs" => 1e3, "ms" => 1e6, _ => 1e9 };

            let read: f64 = value.parse::<f64>().unwrap() * scale;

            prop_assert!((read - nanoseconds).abs() <= nanoseconds * 0.005_01, "{}", shown);
        }
    }
}
