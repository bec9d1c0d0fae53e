//! What the notifiers cost, next to a bare `fetch_add` + `fetch_sub` on one line in the same run.
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on stops")]

use std::{
    hint::black_box,
    ops::ControlFlow,
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use mmu_notifier::{
    AddressRange, AllLocks, Event, Exempt, IntervalSubscription, Invalidation, LockedSpace, MmapLock,
    MmapWriteGuard, PAGE_SIZE, RmapLock, SubscriberId, Subscriptions, VmaLock,
    lock::{RawLock, ReverseMap, Vma},
    testing::{Recorder, Slow},
};

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

fn one_thread(c: &mut Criterion) {
    let mut group = c.benchmark_group("one thread");
    let line = AtomicU64::new(0);
    group.bench_function("yardstick: fetch_add + fetch_sub", |b| {
        b.iter(|| {
            black_box(&line).fetch_add(1, SeqCst);
            black_box(&line).fetch_sub(1, SeqCst);
        });
    });

    let nobody = Subscriptions::new();
    group.bench_function("start + end, no subscriber", |b| {
        {
            let exempt = nobody.exempt();
            b.iter(|| start_and_end(&nobody, exempt, 7));
        };
    });

    let timed = Subscriptions::new();
    timed.time_invalidations(true);
    group.bench_function("start + end, no subscriber, timed", |b| {
        {
            let exempt = timed.exempt();
            b.iter(|| start_and_end(&timed, exempt, 7));
        };
    });

    let one = Subscriptions::new();
    one.register(Arc::new(Quiet)).unwrap();
    group.bench_function("start + end, 1 range subscriber", |b| {
        {
            let exempt = one.exempt();
            b.iter(|| start_and_end(&one, exempt, 7));
        };
    });

    let many = Subscriptions::new();
    let subscriptions = intervals(&many, 64);
    group.bench_function("start + end, 64 intervals, 1 overlaps", |b| {
        {
            let exempt = many.exempt();
            b.iter(|| start_and_end(&many, exempt, 7));
        };
    });
    group.bench_function("start + end, 64 intervals, none overlaps", |b| {
        {
            let exempt = many.exempt();
            b.iter(|| start_and_end(&many, exempt, 70));
        };
    });
    group.bench_function("read_begin + read_retry", |b| {
        b.iter(|| {
            let sequence = black_box(&subscriptions[7]).read_begin();
            black_box(subscriptions[7].read_retry(sequence))
        });
    });
    group.finish();
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

/// The time that `threads` threads take for `iterations` invalidations each, on ranges of their own.
fn in_parallel(work: impl Fn(u64) + Sync, threads: u64, iterations: u64) -> Duration {
    let work = &work;
    let barrier = Barrier::new(usize::try_from(threads).unwrap());
    let run = |page| {
        barrier.wait();
        let started = Instant::now();
        for _ in 0..iterations {
            work(page);
        }
        started.elapsed()
    };
    let run = &run;
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|page| scope.spawn(move || run(page * 100))).collect();
        let own = run(0);
        others.into_iter().map(|other| other.join().unwrap()).fold(own, Duration::max)
    })
}

/// Each thread does its iterations, so equal times for one and two threads are twice the speed.
fn two_threads(c: &mut Criterion) {
    let mut group = c.benchmark_group("in parallel");
    // What the processors make of two threads that share nothing.
    let lines = [const { Line(AtomicU64::new(0)) }; 2];
    for threads in [1, 2] {
        group.bench_function(format!("control: a line each, {threads} thread(s)"), |b| {
            let work = |page: u64| {
                let line = &black_box(&lines)[usize::from(page > 0)].0;
                line.fetch_add(1, SeqCst);
                line.fetch_sub(1, SeqCst);
            };
            b.iter_custom(|iterations| in_parallel(work, threads, iterations));
        });
    }
    for (name, setup) in [
        ("no subscriber", (|_| Vec::new()) as fn(&Subscriptions) -> Vec<IntervalSubscription>),
        ("1 range subscriber", |subscriptions| {
            subscriptions.register(Arc::new(Quiet)).unwrap();
            Vec::new()
        }),
        ("64 intervals", |subscriptions| intervals(subscriptions, 64)),
    ] {
        for threads in [1, 2] {
            let subscriptions = Subscriptions::new();
            let _kept = setup(&subscriptions);
            group.bench_function(format!("{name}, {threads} thread(s)"), |b| {
                let exempt = subscriptions.exempt();
                let work = |page| start_and_end(&subscriptions, exempt, page);
                b.iter_custom(|iterations| in_parallel(work, threads, iterations));
            });
        }
    }
    group.finish();
}

/// An address space of VMAs that each map a thing of their own.
struct Space {
    mmap: MmapLock,
    vmas: Vec<(VmaLock, RmapLock)>,
}

impl Space {
    fn new(mappings: usize) -> Self {
        let vmas = (0..mappings).map(|_| (VmaLock::new(()), RmapLock::new(()))).collect();
        Self { mmap: MmapLock::new(()), vmas }
    }
}

impl LockedSpace for Space {
    type Vmas = ();

    fn mmap_lock(&self) -> &MmapLock {
        &self.mmap
    }

    fn vma_locks(
        &self,
        _: &MmapWriteGuard<'_>,
        visit: &mut dyn FnMut(&RawLock<Vma>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.vmas.iter().try_for_each(|(vma, _)| visit(vma.raw()))
    }

    fn rmap_locks(
        &self,
        _: &MmapWriteGuard<'_>,
        visit: &mut dyn FnMut(&RawLock<ReverseMap>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.vmas.iter().try_for_each(|(_, rmap)| visit(rmap.raw()))
    }
}

/// Registration by either engine, of an owner that maps more and more.
fn registration(c: &mut Criterion) {
    let mut group = c.benchmark_group("registration");
    let recorder = Arc::new(Recorder::new("recorder"));
    for mappings in [0, 1_000, 60_000, 1_000_000] {
        let space = Space::new(mappings);
        let subscriptions = Subscriptions::new();
        let time = |iterations, register: &dyn Fn() -> SubscriberId| {
            let mut total = Duration::ZERO;
            for _ in 0..iterations {
                let started = Instant::now();
                let id = register();
                total += started.elapsed();
                subscriptions.unregister(id).unwrap();
            }
            total
        };
        group.bench_function(format!("grace period, {mappings} mappings"), |b| {
            b.iter_custom(|iterations| {
                time(iterations, &|| subscriptions.register(recorder.clone()).unwrap())
            });
        });
        let engine = AllLocks::new(&space, None);
        group.bench_function(format!("all locks, {mappings} mappings"), |b| {
            b.iter_custom(|iterations| {
                time(iterations, &|| subscriptions.register_by(&engine, recorder.clone()).unwrap())
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = one_thread, two_threads, registration
}
criterion_main!(benches);
