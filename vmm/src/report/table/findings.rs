//! What the reader must know beside the figures: checks, skipped backings, warnings.

use std::io::{self, Write};

use super::super::format::{counted, printable};
use super::super::layout::write_list;
use super::super::{Report, Skipped};

pub(super) fn write_findings(report: &Report, width: Option<u16>, out: &mut impl Write) -> io::Result<()> {
    let checks = checks(report);
    if !checks.is_empty() {
        writeln!(out, "\nChecks")?;
        write_list(checks, width, out)?;
    }
    if !report.skipped.is_empty() {
        writeln!(out, "\nSkipped")?;
        write_skipped(&report.skipped, width, out)?;
    }
    if !report.warnings.is_empty() {
        writeln!(out, "\nWarnings")?;
        write_list(report.warnings.iter().map(|warning| [printable(warning)]), width, out)?;
    }
    Ok(())
}

/// Each check that disagrees, with its figures; then one line for each name that was found to agree.
fn checks(report: &Report) -> Vec<[String; 3]> {
    let all = || report.runs.iter().flat_map(|run| run.checks.iter().map(move |check| (run, check)));
    let failed = all().filter(|(_, check)| !check.ok).map(|(run, check)| {
        [
            "DISAGREES".to_owned(),
            printable(&check.name),
            printable(&format!("{}: {}", run.backing, check.detail)),
        ]
    });

    let mut names: Vec<&str> = Vec::new();
    for (_, check) in all().filter(|(_, check)| check.ok) {
        if !names.contains(&check.name.as_str()) {
            names.push(&check.name);
        }
    }
    let agreed = names.into_iter().map(|name| {
        let of = all().filter(|(_, check)| check.name == name).count();
        let ok = all().filter(|(_, check)| check.name == name && check.ok).count();
        let share = if ok == of { String::new() } else { format!("{ok} of ") };
        ["agrees".to_owned(), printable(name), format!("{share}{}", counted(of as u64, "run"))]
    });
    failed.chain(agreed).collect()
}

fn write_skipped(skipped: &[Skipped], width: Option<u16>, out: &mut impl Write) -> io::Result<()> {
    for Skipped { backing, reason, enable } in skipped {
        write_list([[printable(&format!("{backing}: {reason}"))]], width, out)?;
        if let Some(command) = enable {
            // Whole, however long: it is there to be copied.
            writeln!(out, "  enable with: {}", printable(command))?;
        }
    }
    Ok(())
}
