//! What it costs to hold every lock of an address space for a moment, over the number of its mappings.
//!
//! Ends with a table of nanoseconds for each distinct lock, taken and released: medians of criterion's samples.
#![expect(clippy::cast_precision_loss, reason = "the counts are small")]

use std::{
    cell::RefCell,
    hint::black_box,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput};
use mmu_notifier::{
    InterruptToken, LockedSpace, MmapLock, MmapWriteGuard, RmapLock, VmaLock,
    lock::{RawLock, ReverseMap, Vma},
    take_all_locks,
};

/// VMAs that each map one thing.
struct Space {
    mmap: MmapLock,
    /// Each an object of its own, as an owner's would be.
    vmas: Vec<Arc<OneVma>>,
}

struct OneVma {
    lock: VmaLock,
    maps: Arc<RmapLock>,
}

/// What the VMAs map, and how they lie in memory.
#[derive(Clone, Copy)]
enum Shape {
    /// Each its own thing, allocated in address order.
    Own,
    /// Each its own thing, allocated in no order: every lock is a cache miss that nothing foresees.
    OwnScattered,
    /// All the same thing.
    Shared,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::OwnScattered => "own-scattered",
            Self::Shared => "shared",
        }
    }
}

impl Space {
    fn new(mappings: usize, shape: Shape) -> Self {
        let shared = Arc::new(RmapLock::new(()));
        let mut vmas: Vec<_> = (0..mappings)
            .map(|_| {
                Arc::new(OneVma {
                    lock: VmaLock::new(()),
                    maps: match shape {
                        Shape::Shared => Arc::clone(&shared),
                        Shape::Own | Shape::OwnScattered => Arc::new(RmapLock::new(())),
                    },
                })
            })
            .collect();
        if matches!(shape, Shape::OwnScattered) {
            // Knuth's multiplier: neighbours go far apart.
            let mut place = 0_usize;
            vmas.sort_by_cached_key(|_| {
                place = place.wrapping_add(0x9e37_79b9_7f4a_7c15);
                place
            });
        }
        Self { mmap: MmapLock::new(()), vmas }
    }

    /// Takes and releases every lock `times` times.
    fn take(&self, times: u64, token: &InterruptToken) -> Duration {
        let mmap = self.mmap.write();
        let start = Instant::now();
        for _ in 0..times {
            drop(black_box(take_all_locks(&mmap, self, Some(token))));
        }
        start.elapsed()
    }

    fn locks(&self) -> usize {
        let mmap = self.mmap.write();
        take_all_locks(&mmap, self, None).map_or(0, |all| all.locks())
    }
}

impl LockedSpace for Space {
    type Vmas = ();

    fn mmap_lock(&self) -> &MmapLock {
        &self.mmap
    }

    fn vma_locks(
        &self,
        _mmap: &MmapWriteGuard<'_>,
        visit: &mut dyn FnMut(&RawLock<Vma>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.vmas.iter().try_for_each(|vma| visit(vma.lock.raw()))
    }

    fn rmap_locks(
        &self,
        _mmap: &MmapWriteGuard<'_>,
        visit: &mut dyn FnMut(&RawLock<ReverseMap>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.vmas.iter().try_for_each(|vma| visit(vma.maps.raw()))
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let token = InterruptToken::new();
    let mut table = Vec::new();

    for shape in [Shape::Own, Shape::OwnScattered, Shape::Shared] {
        let mut group = criterion.benchmark_group(format!("all_locks/{}", shape.name()));
        for mappings in [0, 1_000, 10_000, 60_000] {
            let space = Space::new(mappings, shape);
            let locks = space.locks();
            let samples = RefCell::new(Vec::new());
            group.throughput(Throughput::Elements(locks as u64));
            group.bench_function(BenchmarkId::from_parameter(mappings), |bencher| {
                bencher.iter_custom(|times| {
                    let elapsed = space.take(times, &token);
                    samples.borrow_mut().push(elapsed.as_secs_f64() * 1e9 / times as f64);
                    elapsed
                });
            });
            table.push((shape, mappings, locks, samples.into_inner()));
        }
        group.finish();
    }
    criterion.final_summary();

    println!(
        "\n{:<14} {:>9} {:>8} {:>12} {:>12}",
        "mappings map", "mappings", "locks", "median ns", "ns a lock"
    );
    for (shape, mappings, locks, mut samples) in table {
        samples.sort_by(f64::total_cmp);
        if let Some(median) = samples.get(samples.len() / 2) {
            print!("{:<14} {mappings:>9} {locks:>8} {median:>12.0}", shape.name());
            match locks {
                0 => println!(),
                _ => println!(" {:>12.1}", median / locks as f64),
            }
        }
    }
}
