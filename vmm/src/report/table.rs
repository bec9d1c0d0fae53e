//! A report for people.

mod findings;
mod managed;

use std::io::{self, Write};

use self::findings::write_findings;
use self::managed::write_managed;
use super::format::{count, counted, duration, float, printable, significant, size};
use super::layout::{Grid, write_list};
use super::setup::{Setup, by_setup};
use super::{Host, Latency, Pool, Report, Run};

/// Writes the report as text: the host, what was run and what was found, then what disagrees, what was skipped and
/// what spoils the figures. Without a width no line is broken.
///
/// # Errors
/// Those of writing.
pub fn write_tables(report: &Report, width: Option<u16>, out: &mut impl Write) -> io::Result<()> {
    write_host(&report.host, width, out)?;
    if report.runs.is_empty() {
        writeln!(out, "\nNo backing was measured.")?;
    }
    for (setup, runs) in by_setup(&report.runs, Setup::of) {
        writeln!(out)?;
        write_list([["run".to_owned(), printable(&format!("{setup}; {}", samples(&runs)))]], width, out)?;
        let tables = [
            ("Time, faults and memory", costs(&runs)),
            ("Latency of the first and of the second touch of the same word", latencies(&runs)),
            ("How faults ended and what they left mapped", second_stage(&runs)),
        ];
        for (title, grid) in tables {
            writeln!(out, "\n{title}")?;
            grid.write(width, out)?;
        }
        write_managed(&runs, width, out)?;
        writeln!(out)?;
        write_list(notes(&runs).map(|note| [note]), width, out)?;
    }
    write_findings(report, width, out)
}

fn write_host(host: &Host, width: Option<u16>, out: &mut impl Write) -> io::Result<()> {
    let facts = [
        ("underlay", host.version.clone()),
        ("kernel", host.kernel.clone()),
        ("CPU", format!("{}, TSC {} kHz", host.cpu, count(host.tsc_khz.into()))),
        ("KVM", format!("{}, second stage {}", host.kvm_vendor, host.second_stage)),
        ("THP", format!("{}, shmem {}", host.thp, host.shmem_thp)),
        (
            "pools",
            format!("2 MiB pages: {}; 1 GiB pages: {}", pool(host.hugepages_2m), pool(host.hugepages_1g)),
        ),
    ];
    write_list(facts.map(|(name, fact)| [name.to_owned(), printable(&fact)]), width, out)
}

fn pool(pool: Pool) -> String {
    format!("{} of {} free", count(pool.free), count(pool.total))
}

/// How many samples the runs have, which can differ where a measurement was broken off.
fn samples(runs: &[&Run]) -> String {
    let fewest = runs.iter().map(|run| run.samples).min().unwrap_or(0);
    let most = runs.iter().map(|run| run.samples).max().unwrap_or(0);
    if fewest == most { counted(most.into(), "sample") } else { format!("{fewest} to {most} samples") }
}

/// What it cost: time, faults and memory.
fn costs(runs: &[&Run]) -> Grid {
    // The first is what the others are related to.
    let base = runs.first().map_or(0.0, |run| float(run.wall_ns.median));
    keyed(runs)
        .figures("touches", each(runs, |run| count(run.touches)))
        .figures("wall\nmedian", each(runs, |run| duration(float(run.wall_ns.median))))
        .figures("wall\nmin", each(runs, |run| duration(float(run.wall_ns.min))))
        .figures("wall\nmax", each(runs, |run| duration(float(run.wall_ns.max))))
        .figures("relative\nwall", each(runs, |run| ratio(float(run.wall_ns.median), base)))
        .figures(
            "wall per\ntouch",
            each(runs, |run| duration(float(run.wall_ns.median) / float(run.touches))),
        )
        .figures("CPU per\ntouch", each(runs, |run| duration(float(run.cpu_ns.median) / float(run.touches))))
        .figures("KVM\nfaults", each(runs, |run| count(run.kvm.pf_taken)))
        .figures("KVM faults\nper touch", each(runs, |run| per_touch(run.kvm.pf_taken, run)))
        .figures("resident", each(runs, |run| run.resident_bytes.map_or_else(|| "-".to_owned(), size)))
}

/// How long touches took.
fn latencies(runs: &[&Run]) -> Grid {
    let cell =
        |run: &Run, latency: &Latency, part: fn(&Latency) -> f64| at_least(part(latency), run.timer_step_ns);
    let first = |part: fn(&Latency) -> f64| each(runs, move |run| cell(run, &run.first_touch_ns, part));
    let second = |part: fn(&Latency) -> f64| each(runs, move |run| cell(run, &run.second_touch_ns, part));
    keyed(runs)
        .figures("first\np50", first(|latency| latency.p50))
        .figures("first\np90", first(|latency| latency.p90))
        .figures("first\np99", first(|latency| latency.p99))
        .figures("first\np99.9", first(|latency| latency.p999))
        .figures("first\nmax", first(|latency| latency.max))
        .figures("first\nmean", each(runs, |run| duration(run.first_touch_ns.mean)))
        .figures("slow\np50", each(runs, |run| slow(run, |latency| latency.p50)))
        .figures("slow\np99", each(runs, |run| slow(run, |latency| latency.p99)))
        .figures("second\np50", second(|latency| latency.p50))
        .figures("second\np99", second(|latency| latency.p99))
        .figures("second\nmean", each(runs, |run| duration(run.second_touch_ns.mean)))
}

/// How long slow touches took.
fn slow(run: &Run, part: fn(&Latency) -> f64) -> String {
    run.slow_touch_ns.as_ref().map_or_else(|| "-".to_owned(), |latency| duration(part(latency)))
}

/// A duration, or that it is shorter than the counter can tell.
fn at_least(nanoseconds: f64, step: f64) -> String {
    if nanoseconds < step { format!("<{}", duration(step)) } else { duration(nanoseconds) }
}

/// How the faults ended and what they left mapped.
fn second_stage(runs: &[&Run]) -> Grid {
    keyed(runs)
        .figures("KVM\nfaults", each(runs, |run| count(run.kvm.pf_taken)))
        .figures("KVM\nfixed", each(runs, |run| count(run.kvm.pf_fixed)))
        .figures("KVM\nspurious", each(runs, |run| count(run.kvm.pf_spurious)))
        .figures("KVM\nemulated", each(runs, |run| count(run.kvm.pf_emulate)))
        .figures("mapped\n4K", each(runs, |run| count(run.mapped.pages_4k)))
        .figures("mapped\n2M", each(runs, |run| count(run.mapped.pages_2m)))
        .figures("mapped\n1G", each(runs, |run| count(run.mapped.pages_1g)))
        .figures("host\nminor", each(runs, |run| count(run.host_faults.minor)))
        .figures("host\nmajor", each(runs, |run| count(run.host_faults.major)))
        .figures("slow\ntouches", each(runs, |run| count(run.slow_touches)))
}

/// The least and the most of what runs say, as one text.
fn from_to(figures: impl Iterator<Item = f64> + Clone) -> String {
    let least = duration(figures.clone().fold(f64::INFINITY, f64::min));
    let most = duration(figures.fold(0.0, f64::max));
    if least == most { most } else { format!("{least} to {most}") }
}

fn notes(runs: &[&Run]) -> [String; 4] {
    [
        format!(
            "Latencies are less the cost of a pair of time stamps, measured in the same guest: {}; its counter steps by {}. \
             A slow touch took more than {}.",
            from_to(runs.iter().map(|run| run.timer_ns)),
            from_to(runs.iter().map(|run| run.timer_step_ns)),
            duration(super::SLOW_NS)
        ),
        runs.first().map_or_else(String::new, |run| {
            let (first, wall) = (printable(&run.backing), float(run.wall_ns.median));
            format!("The relative wall time is to that of {first}, {}.", duration(wall))
        }),
        "CPU is the processor time of all threads, user and system, from before RAM is made to the last first touch: what \
         zeroes ahead is in it. A slow touch is a first one that faulted, or was interrupted."
            .to_owned(),
        "Counts are of one sample, the median. A touch is one access of the guest; a KVM fault may map many pages."
            .to_owned(),
    ]
}

fn keyed(runs: &[&Run]) -> Grid {
    Grid::new("backing", each(runs, |run| printable(&run.backing)))
}

fn each<'a>(runs: &'a [&Run], figure: impl Fn(&Run) -> String + 'a) -> impl Iterator<Item = String> + 'a {
    runs.iter().map(move |run| figure(run))
}

fn per_touch(faults: u64, run: &Run) -> String {
    match run.touches {
        0 => "-".to_owned(),
        touches => significant(float(faults) / float(touches)),
    }
}

fn ratio(value: f64, base: f64) -> String {
    if base > 0.0 { format!("{}×", significant(value / base)) } else { "-".to_owned() }
}

#[cfg(test)]
mod tests;
