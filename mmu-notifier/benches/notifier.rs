//! What the notifiers cost, next to a bare `fetch_add` + `fetch_sub` on one line in the same run.
//!
//! Ends with a table of medians. Each line ran in turns with its yardstick.
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on stops")]

mod medians;

use std::{
    fmt,
    hint::black_box,
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use medians::{Routine, medians, time};
use mmu_notifier::{
    AddressRange, AllLocks, Event, Exempt, IntervalSubscription, Invalidation, PAGE_SIZE, SubscriberId,
    Subscriptions,
    testing::{LockedVmas, Recorder, Slow},
};

/// A line of the table: medians in nanoseconds.
struct Row {
    name: String,
    median: f64,
    /// What it is compared with, if with anything.
    yardstick: Option<f64>,
    aim: &'static str,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<44} {:>12.1}", self.name, self.median)?;
        match self.yardstick {
            Some(yardstick) => write!(f, " {yardstick:>10.1} {:>6.2}", self.median / yardstick)?,
            None => write!(f, " {:>10} {:>6}", "", "")?,
        }
        write!(f, "  {}", self.aim)
    }
}

#[derive(Default)]
struct Table(Vec<Row>);

impl Table {
    /// Measures `line` in turns with `yardstick`.
    fn compare(
        &mut self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        (name, aim): (&str, &'static str),
        line: Routine<'_>,
        yardstick: Routine<'_>,
    ) {
        if let Some([median, yardstick]) = medians(group, name, [line, yardstick]) {
            self.0.push(Row { name: name.to_owned(), median, yardstick: Some(yardstick), aim });
        }
    }

    /// Measures `line`, compared with nothing.
    fn add(
        &mut self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        (name, aim): (&str, &'static str),
        line: Routine<'_>,
    ) {
        if let Some([median]) = medians(group, name, [line]) {
            self.0.push(Row { name: name.to_owned(), median, yardstick: None, aim });
        }
    }

    fn print(&self, title: &str) {
        if self.0.is_empty() {
            return;
        }
        println!("\n{title:<44} {:>12} {:>10} {:>6}  aim", "median ns", "yardstick", "ratio");
        for row in &self.0 {
            println!("{row}");
        }
    }
}

fn pages(start: u64, count: u64) -> AddressRange {
    AddressRange::new(start * PAGE_SIZE, count * PAGE_SIZE).unwrap()
}

fn unmap(start: u64) -> Invalidation {
    Invalidation::new(pages(start, 1), Event::Unmap)
}

fn start_and_end(subscriptions: &Subscriptions, exempt: &Exempt, page: u64) {
    let invalidation = black_box(unmap(page));
    drop(subscriptions.invalidate_range_start(exempt, invalidation));
}

/// Subscribers that do nothing, each on one page.
fn intervals(subscriptions: &Subscriptions, count: u64) -> Vec<IntervalSubscription> {
    let quiet = Arc::new(Slow::new("quiet", Duration::ZERO));
    (0..count).map(|page| subscriptions.insert(pages(page, 1), quiet.clone()).unwrap()).collect()
}

/// The yardstick.
fn add_and_subtract(line: &AtomicU64) {
    black_box(line).fetch_add(1, SeqCst);
    black_box(line).fetch_sub(1, SeqCst);
}

/// One thread, each line in turns with a bare `fetch_add` + `fetch_sub`.
fn one_thread(c: &mut Criterion) -> Table {
    let mut table = Table::default();
    let mut group = c.benchmark_group("one thread");
    let mut line = |name_and_aim, work: Routine<'_>| {
        let line = AtomicU64::new(0);
        let mut yardstick = |times| time(times, || add_and_subtract(&line));
        table.compare(&mut group, name_and_aim, work, &mut yardstick);
    };

    let nobody = Subscriptions::new();
    let exempt = nobody.exempt();
    line(("start + end, no subscriber", "1.5"), &mut |times| {
        time(times, || start_and_end(&nobody, exempt, 7))
    });

    let timed = Subscriptions::new();
    timed.time_invalidations(true);
    let exempt = timed.exempt();
    line(("start + end, no subscriber, timed", ""), &mut |times| {
        time(times, || start_and_end(&timed, exempt, 7))
    });

    let one = Subscriptions::new();
    one.register(Arc::new(Quiet)).unwrap();
    let exempt = one.exempt();
    line(("start + end, 1 range subscriber", ""), &mut |times| {
        time(times, || start_and_end(&one, exempt, 7))
    });

    let many = Subscriptions::new();
    let subscriptions = intervals(&many, 64);
    let exempt = many.exempt();
    line(("start + end, 64 intervals, 1 overlaps", "25"), &mut |times| {
        time(times, || start_and_end(&many, exempt, 7))
    });
    line(("start + end, 64 intervals, none overlaps", ""), &mut |times| {
        time(times, || start_and_end(&many, exempt, 70))
    });
    line(("read_begin + read_retry", "1.0"), &mut |times| {
        time(times, || {
            let sequence = black_box(&subscriptions[7]).read_begin();
            subscriptions[7].read_retry(sequence)
        })
    });
    group.finish();
    table
}

#[repr(align(128))]
struct Line(AtomicU64);

/// A range subscriber that does nothing.
struct Quiet;

impl mmu_notifier::Subscriber for Quiet {
    fn name(&self) -> &'static str {
        "quiet"
    }

    fn invalidate_range_start(&self, _: &Invalidation) -> Result<(), mmu_notifier::WouldBlock> {
        Ok(())
    }
}

/// The time that `threads` threads take for `iterations` in all, each on a range of its own.
fn in_parallel(work: &(impl Fn(u64) + Sync), threads: u64, iterations: u64) -> Duration {
    let iterations = iterations.div_ceil(threads);
    let barrier = Barrier::new(usize::try_from(threads).unwrap());
    let run = |page| {
        barrier.wait();
        time(iterations, || work(page))
    };
    let run = &run;
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|page| scope.spawn(move || run(page * 32))).collect();
        let own = run(0);
        others.into_iter().map(|other| other.join().unwrap()).fold(own, Duration::max)
    })
}

/// Two threads, each line in turns with one thread that does the same number of times in all.
fn two_threads(c: &mut Criterion) -> Table {
    let mut table = Table::default();
    let mut group = c.benchmark_group("two threads");

    // What the processors make of two threads that share nothing.
    let lines = [const { Line(AtomicU64::new(0)) }; 2];
    let work = |page: u64| add_and_subtract(&lines[usize::from(page > 0)].0);
    table.compare(
        &mut group,
        ("control: a line each", ""),
        &mut |times| in_parallel(&work, 2, times),
        &mut |times| in_parallel(&work, 1, times),
    );

    for (name, setup) in [
        ("no subscriber", (|_| Vec::new()) as fn(&Subscriptions) -> Vec<IntervalSubscription>),
        ("1 range subscriber", |subscriptions| {
            subscriptions.register(Arc::new(Quiet)).unwrap();
            Vec::new()
        }),
        ("64 intervals", |subscriptions| intervals(subscriptions, 64)),
    ] {
        let subscriptions = Subscriptions::new();
        let _kept = setup(&subscriptions);
        let exempt = subscriptions.exempt();
        let work = |page| start_and_end(&subscriptions, exempt, page);
        table.compare(
            &mut group,
            (name, "0.59: 1.7 times as fast"),
            &mut |times| in_parallel(&work, 2, times),
            &mut |times| in_parallel(&work, 1, times),
        );
    }
    group.finish();
    table
}

/// Registration by either engine, of an owner that maps more and more.
fn registration(c: &mut Criterion) -> Table {
    let mut table = Table::default();
    let mut group = c.benchmark_group("registration");
    let recorder = Arc::new(Recorder::new("recorder"));
    for mappings in [0, 1_000, 10_000, 60_000, 1_000_000] {
        let space = LockedVmas::own(mappings);
        let subscriptions = Subscriptions::new();
        let time = |times, register: &dyn Fn() -> SubscriberId| {
            let mut total = Duration::ZERO;
            for _ in 0..times {
                let started = Instant::now();
                let id = register();
                total += started.elapsed();
                subscriptions.unregister(id).unwrap();
            }
            total
        };
        let name = format!("grace period, {mappings} mappings");
        table.add(&mut group, (&name, "10,000 ns"), &mut |times| {
            time(times, &|| subscriptions.register(recorder.clone()).unwrap())
        });
        let engine = AllLocks::new(&space, None);
        let name = format!("all locks, {mappings} mappings");
        table.add(&mut group, (&name, ""), &mut |times| {
            time(times, &|| subscriptions.register_by(&engine, recorder.clone()).unwrap())
        });
    }
    group.finish();
    table
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();

    let tables = [
        ("one thread; a bare fetch_add + fetch_sub", one_thread(&mut criterion)),
        ("two threads; one thread", two_threads(&mut criterion)),
        ("registration", registration(&mut criterion)),
    ];
    criterion.final_summary();

    for (title, table) in tables {
        table.print(title);
    }
}
