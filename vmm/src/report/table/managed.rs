//! The tables of the backings whose faults underlay resolves.

use std::io::{self, Write};

use super::super::format::{count, duration, float, printable, significant};
use super::super::layout::{Grid, write_list};
use super::super::{Latency, Managed, Ratio, Run, StageTimes};

pub(super) fn write_managed(runs: &[&Run], width: Option<u16>, out: &mut impl Write) -> io::Result<()> {
    let managed: Vec<(&Run, &Managed)> =
        runs.iter().filter_map(|run| Some((*run, run.managed.as_ref()?))).collect();
    if managed.is_empty() {
        return Ok(());
    }
    let timed: Vec<(&Run, &StageTimes)> =
        managed.iter().filter_map(|(run, managed)| Some((*run, managed.stages.as_ref()?))).collect();
    let owned: Vec<Run> = runs.iter().map(|run| (*run).clone()).collect();
    let ratios = Ratio::among(&owned);

    if !ratios.is_empty() {
        writeln!(out, "\nManaged to kernel-resolved: below 1 is better")?;
        against_kernel(&ratios).write(width, out)?;
    }
    writeln!(out, "\nFaults that underlay resolved, by reason, and what it maps")?;
    faults(&managed).write(width, out)?;
    if !timed.is_empty() {
        writeln!(out, "\nStages of those faults whose touch was timed")?;
        stages(&timed).write(width, out)?;
    }
    writeln!(out)?;
    write_list(notes(&managed, &timed).into_iter().map(|note| [note]), width, out)
}

fn against_kernel(ratios: &[Ratio]) -> Grid {
    let column = |figure: fn(&Ratio) -> Option<f64>| {
        let shown = move |ratio: &Ratio| {
            figure(ratio).map_or_else(|| "-".to_owned(), |ratio| format!("{}×", significant(ratio)))
        };
        ratios.iter().map(shown)
    };
    Grid::new("backing", ratios.iter().map(|ratio| printable(&ratio.backing)))
        .words("to", ratios.iter().map(|ratio| printable(&ratio.to)))
        .figures("wall", column(|ratio| ratio.wall))
        .figures("slow\np50", column(|ratio| ratio.slow_p50))
        .figures("slow\np99", column(|ratio| ratio.slow_p99))
        .figures("handled\np50", column(|ratio| ratio.handled_p50))
        .figures("handled\np99", column(|ratio| ratio.handled_p99))
        .figures("CPU", column(|ratio| ratio.cpu))
}

/// A row for each backing and reason that was counted.
fn faults(managed: &[(&Run, &Managed)]) -> Grid {
    let counted = |managed: &Managed| {
        let reasons = managed.faults.iter().filter(|(_, faults)| **faults > 0);
        let reasons: Vec<_> =
            reasons.map(|(reason, faults)| format!("{reason} {}", count(*faults))).collect();
        if reasons.is_empty() { "none".to_owned() } else { printable(&reasons.join(", ")) }
    };
    Grid::new("backing", managed.iter().map(|(run, _)| printable(&run.backing)))
        .figures("mapped\n4K", managed.iter().map(|(_, managed)| count(managed.mapped_4k)))
        .figures("mapped\n2M", managed.iter().map(|(_, managed)| count(managed.mapped_2m)))
        .figures("from\nstock", managed.iter().map(|(_, managed)| count(managed.stock_hits)))
        .figures("zeroed\nin fault", managed.iter().map(|(_, managed)| count(managed.zeroed_in_fault)))
        .words("faults", managed.iter().map(|(_, managed)| counted(managed)))
}

/// A row for each backing and stage.
fn stages(timed: &[(&Run, &StageTimes)]) -> Grid {
    let rows: Vec<_> = timed
        .iter()
        .flat_map(|(run, times)| {
            let stages = [
                ("whole touch", times.touch_ns),
                ("wake", times.wake_ns),
                ("resolve", times.resolve_ns),
                ("resume", times.resume_ns),
            ];
            stages.map(|(stage, latency)| (printable(&run.backing), times.faults, stage, latency))
        })
        .collect();
    let column = |part: fn(&Latency) -> f64| {
        let shown = move |faults: u64, latency: &Latency| match faults {
            0 => "-".to_owned(),
            _ => duration(part(latency)),
        };
        rows.iter().map(move |(_, faults, _, latency)| shown(*faults, latency))
    };
    Grid::new("backing", rows.iter().map(|(backing, ..)| backing.clone()))
        .words("stage", rows.iter().map(|(_, _, stage, _)| (*stage).to_owned()))
        .figures("faults", rows.iter().map(|(_, faults, ..)| count(*faults)))
        .figures("p50", column(|latency| latency.p50))
        .figures("p90", column(|latency| latency.p90))
        .figures("p99", column(|latency| latency.p99))
        .figures("max", column(|latency| latency.max))
        .figures("mean", column(|latency| latency.mean))
}

fn notes(managed: &[(&Run, &Managed)], timed: &[(&Run, &StageTimes)]) -> Vec<String> {
    // All runs of a measurement are managed alike.
    let mut setups: Vec<String> = managed.iter().map(|(_, managed)| managed.setup.to_string()).collect();
    setups.dedup();
    let waits = managed.iter().map(|(_, managed)| float(managed.stock_wait_ns));
    let mut notes = vec![
        format!("Managed RAM: {}.", printable(&setups.join(" / "))),
        format!(
            "Before the guest ran it was kept waiting until the stock was zeroed, up to {}: not in the wall time.",
            duration(waits.fold(0.0, f64::max))
        ),
        "Slow touches are also those of pages that had been mapped beside another: KVM alone resolves them. Handled are \
         only those that a handler resolved; both are to the kernel's slow touches."
            .to_owned(),
        "Frames are of 4 KiB; `around` counts pages that were mapped beside those that faulted.".to_owned(),
    ];
    if !timed.is_empty() {
        let error = timed.iter().map(|(_, times)| times.clock_error_ns).fold(0.0, f64::max);
        let clock = if error > 0.0 {
            format!(
                "the guest's is known to it to {}: wake may be too long by as much and resume too short, or the other \
                 way round",
                duration(error)
            )
        } else {
            "the guest reads the same counter".to_owned()
        };
        notes.push(format!(
            "Wake is from the guest's access until a handler has the fault, resolve until it is done or the guest goes \
             on, resume until the guest's next instruction. One clock tells them, the host's time stamp counter; {clock}."
        ));
    }
    notes
}
