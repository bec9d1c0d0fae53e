//! A comparison for people.

use std::io::{self, Write};

use super::super::format::{count, duration, float, printable, significant, size};
use super::super::layout::{Grid, write_list};
use super::super::setup::by_setup;
use super::{Comparison, RunComparison, RunKey, Verdict};

/// Writes the comparison as text: first what makes ratios mean less, then the figures, then the runs that only one
/// side has. Without a width no line is broken.
///
/// # Errors
/// Those of writing.
pub fn write_comparison(comparison: &Comparison, width: Option<u16>, out: &mut impl Write) -> io::Result<()> {
    write_hosts(comparison, width, out)?;
    write_lines("Warnings of A", comparison.warnings_a.iter().map(|warning| printable(warning)), width, out)?;
    write_lines("Warnings of B", comparison.warnings_b.iter().map(|warning| printable(warning)), width, out)?;
    if comparison.runs.is_empty() {
        writeln!(out, "No run is in both: measure the same backings with the same options.\n")?;
    }
    for (setup, runs) in by_setup(&comparison.runs, |run| run.key.setup.clone()) {
        write_list([["run".to_owned(), printable(&setup.to_string())]], width, out)?;
        writeln!(out)?;
        figures(&runs).write(width, out)?;
        writeln!(out)?;
    }
    write_lines("Only in A", comparison.only_in_a.iter().map(named), width, out)?;
    write_lines("Only in B", comparison.only_in_b.iter().map(named), width, out)?;
    let note = "Larger than the spread: the samples of A and B do not overlap, which is chance in at most 1 of 20 \
                cases. Counts are exact. A dash: nothing to judge by.";
    write_list([[note.to_owned()]], width, out)
}

fn write_hosts(comparison: &Comparison, width: Option<u16>, out: &mut impl Write) -> io::Result<()> {
    let differences = &comparison.host_differences;
    if differences.is_empty() {
        return Ok(());
    }
    let value = |value: &Option<String>| value.as_deref().map_or_else(|| "-".to_owned(), printable);
    writeln!(out, "The hosts DIFFER, so that ratios mean less")?;
    Grid::new("host", differences.iter().map(|difference| printable(&difference.key)))
        .words("A", differences.iter().map(|difference| value(&difference.a)))
        .words("B", differences.iter().map(|difference| value(&difference.b)))
        .write(width, out)?;
    writeln!(out)
}

fn write_lines(
    title: &str,
    lines: impl ExactSizeIterator<Item = String>,
    width: Option<u16>,
    out: &mut impl Write,
) -> io::Result<()> {
    if lines.len() == 0 {
        return Ok(());
    }
    writeln!(out, "{title}")?;
    write_list(lines.map(|line| [line]), width, out)?;
    writeln!(out)
}

fn named(key: &RunKey) -> String {
    let managed = key.managed.as_ref().map(|managed| format!("; {managed}")).unwrap_or_default();
    printable(&format!("{}: {}{managed}", key.backing, key.setup))
}

/// One line of the table: a figure of both sides, or the backing whose figures follow.
type Line = [String; 5];

fn figures(runs: &[&RunComparison]) -> Grid {
    let lines: Vec<Line> = runs.iter().flat_map(|run| lines(run)).collect();
    let column = |index: usize| lines.iter().map(move |line| line[index].clone());
    Grid::new("backing", column(0))
        .figures("A", column(1))
        .figures("B", column(2))
        .figures("B/A", column(3))
        .words("difference", column(4))
}

fn lines(run: &RunComparison) -> [Line; 7] {
    let line = |name: &str, a: String, b: String, ratio: Option<f64>, verdict: Verdict| {
        let ratio = ratio.map_or_else(|| "-".to_owned(), significant);
        [format!("  {name}"), a, b, ratio, phrase(verdict).to_owned()]
    };
    let known = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), size);
    let touch = |name, figure: super::Figure<f64>| {
        line(name, duration(figure.a), duration(figure.b), figure.ratio, figure.verdict)
    };
    let (wall, faults, resident) = (run.wall_ns, run.kvm_pf_taken, run.resident_bytes);
    [
        [printable(&run.key.backing), String::new(), String::new(), String::new(), doubts(run)],
        line("wall", duration(float(wall.a)), duration(float(wall.b)), wall.ratio, wall.verdict),
        touch("first touch p50", run.first_touch_p50_ns),
        touch("first touch p99", run.first_touch_p99_ns),
        touch("second touch p50", run.second_touch_p50_ns),
        line("KVM faults", count(faults.a), count(faults.b), faults.ratio, faults.verdict),
        line("resident", known(resident.a), known(resident.b), resident.ratio, resident.verdict),
    ]
}

/// The checks that disagree, so that the figures are in doubt.
fn doubts(run: &RunComparison) -> String {
    [("A", &run.failed_checks_a), ("B", &run.failed_checks_b)]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(side, names)| printable(&format!("{side} DISAGREES: {}", names.join(", "))))
        .collect::<Vec<_>>()
        .join("; ")
}

const fn phrase(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::LargerThanSpread => "larger than the spread",
        Verdict::WithinSpread => "within the spread",
        Verdict::TooFewSamples => "too few samples to say",
        Verdict::Equal => "equal",
        Verdict::Differs => "differs",
        Verdict::NotJudged => "-",
    }
}
