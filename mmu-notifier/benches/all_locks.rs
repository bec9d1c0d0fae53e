//! What it costs to hold every lock of an address space for a moment, over the number of its mappings.
//!
//! Ends with a table of medians: nanoseconds for all, for each distinct lock, and for each mapping since none.
#![expect(clippy::cast_precision_loss, reason = "the counts are small")]

mod medians;

use std::{fmt, time::Duration};

use criterion::{Criterion, Throughput};
use medians::{medians, time};
use mmu_notifier::{InterruptToken, LockedSpace, take_all_locks, testing::LockedVmas};

/// So many VMAs.
type Vmas = fn(usize) -> LockedVmas;

/// What the VMAs map, and how they lie in memory.
const SHAPES: [(&str, Vmas); 3] =
    [("own", LockedVmas::own), ("scattered", LockedVmas::scattered), ("shared", LockedVmas::shared)];

struct Row {
    shape: &'static str,
    mappings: usize,
    locks: usize,
    median: f64,
    /// The median of the same shape without mappings, if that was run.
    at_none: Option<f64>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shape, mappings, locks, median, at_none } = self;
        write!(f, "{shape:<12} {mappings:>9} {locks:>9} {median:>12.0}")?;
        if *mappings == 0 {
            return Ok(());
        }
        write!(f, " {:>12.1}", median / *locks as f64)?;
        at_none.map_or(Ok(()), |none| write!(f, " {:>12.1}", (median - none) / *mappings as f64))
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let token = InterruptToken::new();
    let mut rows = Vec::new();

    for (shape, vmas) in SHAPES {
        let mut group = criterion.benchmark_group(format!("all_locks/{shape}"));
        let mut at_none = None;
        for mappings in [0, 1_000, 10_000, 60_000] {
            let space = vmas(mappings);
            let mmap = space.mmap_lock().write();
            let locks = take_all_locks(&mmap, &space, None).map_or(0, |all| all.locks());
            group.throughput(Throughput::Elements(locks as u64));
            let mut take = |times| time(times, || drop(take_all_locks(&mmap, &space, Some(&token))));
            if let Some([median]) = medians(&mut group, &mappings.to_string(), [&mut take]) {
                at_none = at_none.or((mappings == 0).then_some(median));
                rows.push(Row { shape, mappings, locks, median, at_none });
            }
        }
        group.finish();
    }
    criterion.final_summary();

    if rows.is_empty() {
        return;
    }
    println!(
        "\n{:<12} {:>9} {:>9} {:>12} {:>12} {:>12}",
        "VMAs map", "mappings", "locks", "median ns", "ns a lock", "ns a mapping"
    );
    for row in rows {
        println!("{row}");
    }
}
