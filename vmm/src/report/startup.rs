//! What many starts of a microVM have in common: `underlay startup`.

use std::io::{self, Write};

use serde::Serialize;

use super::{
    Spread,
    format::{duration, size},
    layout::Grid,
};
use crate::startup::Start;

/// Medians over all starts, and how far they spread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StartupReport {
    /// The version of this format: 1.
    pub schema: u32,
    /// What backed the guests' RAM.
    pub backing: String,
    /// How much of it they had.
    pub mem_bytes: u64,
    /// How many starts there were.
    pub samples: usize,
    /// What was reached, in this order, and when: nanoseconds since the process was asked for.
    pub reached_ns: Vec<(String, Spread)>,
    /// Bytes resident in the VMM's process, its guest's memory not counted.
    pub overhead_bytes: Spread,
    /// Bytes of the guest's memory resident then.
    pub guest_bytes: Spread,
    /// The yardstick of the same run: this program started only to print its version, until it has ended.
    pub empty_process_ns: Spread,
}

impl StartupReport {
    /// What `starts` have in common, beside `empty`, the starts that made no guest, in nanoseconds. `None` if there
    /// are none of either, or if not all starts got equally far.
    #[must_use]
    pub fn of(backing: String, mem_bytes: u64, starts: &[Start], empty: &[u64]) -> Option<Self> {
        let spread = |value: &dyn Fn(&Start) -> Option<u64>| {
            Spread::of(&starts.iter().map(value).collect::<Option<Vec<_>>>()?)
        };
        let stages = starts.first()?.reached.iter().enumerate();
        let reached_ns = stages.map(|(index, (name, _))| {
            let at = |start: &Start| start.reached.get(index).map(|(_, at)| *at);
            Some((name.clone(), spread(&at)?))
        });
        Some(Self {
            schema: 1,
            backing,
            mem_bytes,
            samples: starts.len(),
            reached_ns: reached_ns.collect::<Option<_>>()?,
            overhead_bytes: spread(&|start| Some(start.overhead_bytes))?,
            guest_bytes: spread(&|start| Some(start.guest_bytes))?,
            empty_process_ns: Spread::of(empty)?,
        })
    }
}

/// Writes the report for people, in tables of at most `width` columns.
///
/// # Errors
/// Those of writing.
pub fn write_startup(report: &StartupReport, width: Option<u16>, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{} starts of a guest with {} of {}; times since the process was asked for\n",
        report.samples,
        size(report.mem_bytes),
        report.backing
    )?;
    #[expect(clippy::cast_precision_loss, reason = "2^53 nanoseconds are a hundred days")]
    let time = |ns: u64| duration(ns as f64);
    let stages = &report.reached_ns;
    let column = |value: fn(&Spread) -> u64| stages.iter().map(move |(_, at)| time(value(at)));
    let medians = || stages.iter().map(|(_, at)| at.median);
    let steps = medians().zip([0].into_iter().chain(medians())).map(|(at, before)| at.saturating_sub(before));
    Grid::new("reached", stages.iter().map(|(name, _)| name.clone()))
        .figures("median", column(|at| at.median))
        .figures("min", column(|at| at.min))
        .figures("max", column(|at| at.max))
        .figures("step", steps.map(time))
        .write(width, out)?;
    let empty = report.empty_process_ns;
    writeln!(
        out,
        "\nyardstick: this program started only to print its version took {} ({} to {})",
        time(empty.median),
        time(empty.min),
        time(empty.max)
    )?;
    writeln!(
        out,
        "resident in the VMM without its guest's memory: {}; of the guest's memory: {}",
        size(report.overhead_bytes.median),
        size(report.guest_bytes.median)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(stages: &[u64]) -> Start {
        let reached = stages.iter().zip(["VM made", "first doorbell"]);
        Start {
            reached: reached.map(|(at, name)| (name.to_owned(), *at)).collect(),
            overhead_bytes: 3 << 20,
            guest_bytes: 28 << 10,
        }
    }

    #[test]
    fn stages_are_shown_with_their_steps() {
        let starts =
            [start(&[1_000_000, 3_000_000]), start(&[1_200_000, 4_000_000]), start(&[900_000, 2_000_000])];
        let report = StartupReport::of("anonymous".to_owned(), 128 << 20, &starts, &[500_000]).unwrap();
        let mut text = Vec::new();

        write_startup(&report, Some(100), &mut text).unwrap();

        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("3 starts of a guest with 128 MiB of anonymous"), "{text}");
        let last = text.lines().find(|line| line.starts_with("first doorbell")).unwrap();
        let figures: Vec<_> = last.split_whitespace().skip(2).collect();
        assert_eq!(figures, ["3.00", "ms", "2.00", "ms", "4.00", "ms", "2.00", "ms"]);
        assert!(text.contains("without its guest's memory: 3 MiB"), "{text}");
    }

    #[test]
    fn starts_that_got_differently_far_have_nothing_in_common() {
        let starts = [start(&[1, 2]), start(&[1])];

        assert_eq!(StartupReport::of("shmem".to_owned(), 1, &starts, &[1]), None);
    }
}
