//! What the page table costs, beside yardsticks from the same run: a dependent chain of as many loads as a look-up
//! takes, and a bare `fetch_add` + `fetch_sub` on one line.
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on stops")]

use std::{
    hint::black_box,
    sync::{
        Barrier,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Acquire, SeqCst},
        },
    },
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use guest_mem::{
    BLOCK_PAGES, Gfn, PageSize, Pfn,
    folio::FrameTable,
    pgtable::{Entry, EntryFlags, PageTable, PtGuard},
};
use mmu_notifier::{AddressRange, PAGE_SIZE};

/// 2 MiB ranges: the even ones are mapped huge, the odd ones page by page.
const BLOCKS: u64 = 8;

fn pages(start: Gfn, count: u64) -> AddressRange {
    AddressRange::new(start.address(), count * PAGE_SIZE).unwrap()
}

fn huge(block: u64) -> Gfn {
    Gfn::new(2 * block * BLOCK_PAGES)
}

fn base(block: u64) -> Gfn {
    huge(block).plus(BLOCK_PAGES)
}

/// A page table of 1 TiB that maps the first [`BLOCKS`], each page to the frame of its own number.
fn table() -> (PageTable, FrameTable) {
    let table = PageTable::new(AddressRange::new(0, 1 << 40).unwrap()).unwrap();
    let frames = FrameTable::new(BLOCKS * BLOCK_PAGES);
    let map = |guard: &mut PtGuard<'_>, gfn: Gfn, size| {
        let folio = frames.claim(gfn.get(), size).unwrap().unfreeze(1).leak();
        let entry = Entry::new(Pfn::new(0, gfn.get()), size, EntryFlags::WRITE);
        match size {
            PageSize::Base => {
                folio.map_page(0);
                guard.set_page(gfn, entry).unwrap();
            }
            PageSize::Huge => {
                folio.map_huge();
                guard.set_huge(entry).unwrap();
            }
        }
    };
    for block in 0..BLOCKS / 2 {
        map(&mut table.lock(huge(block)).unwrap(), huge(block), PageSize::Huge);
        let mut guard = table.lock(base(block)).unwrap();
        guard.expose_table().unwrap();
        for gfn in Gfn::all_of(pages(base(block), BLOCK_PAGES)) {
            map(&mut guard, gfn, PageSize::Base);
        }
    }
    (table, frames)
}

/// A number on cache lines of its own, also for the prefetcher of pairs.
#[repr(align(128))]
struct Line(AtomicU64);

/// Follows a chain of `loads` places from `start` on, each of which says where the next is.
fn chain(places: &[AtomicUsize], start: usize, loads: usize) -> usize {
    (0..loads).fold(start, |place, _| places[place].load(Acquire))
}

/// Each look-up begins with what the one before found: what counts is when its result is there.
fn look_ups(c: &mut Criterion) {
    let mut group = c.benchmark_group("look-up");
    let places: Vec<_> = (0..32).map(|place| AtomicUsize::new((place + 8) % 32)).collect();
    for loads in [3, 4] {
        group.bench_function(format!("yardstick: a chain of {loads} loads"), |b| {
            let mut at = 0;
            b.iter(|| at = chain(black_box(&places), at, loads));
        });
    }
    let (table, frames) = table();
    for (name, gfn) in [("2M", huge(1)), ("4K", base(1).plus(7))] {
        group.bench_function(format!("walk, {name}"), |b| {
            // The frame's number is the page's.
            let mut at = gfn.get();
            b.iter(|| at = black_box(&table).walk(Gfn::new(at)).pfn().index());
            assert_eq!(at, gfn.get());
        });
        group.bench_function(format!("get + put, {name}"), |b| {
            b.iter(|| black_box(&table).get(black_box(gfn), black_box(&frames)).map(drop));
        });
    }
    group.finish();
}

fn pins(c: &mut Criterion) {
    let mut group = c.benchmark_group("pin");
    let line = Line(AtomicU64::new(0));
    group.bench_function("yardstick: fetch_add + fetch_sub", |b| {
        b.iter(|| {
            black_box(&line).0.fetch_add(1, SeqCst);
            black_box(&line).0.fetch_sub(1, SeqCst);
        });
    });
    let (table, frames) = table();
    for (name, range) in [
        ("one 4K page", pages(base(1).plus(7), 1)),
        ("one page of a 2M page", pages(huge(1).plus(7), 1)),
        ("a 2M page", pages(huge(1), BLOCK_PAGES)),
        ("512 4K pages", pages(base(1), BLOCK_PAGES)),
    ] {
        for (how, write) in [("reading", false), ("writing", true)] {
            group.bench_function(format!("{name} for {how}, and unpin"), |b| {
                b.iter(|| black_box(&table).pin(black_box(range), write, black_box(&frames)).map(drop));
            });
        }
    }
    group.finish();
}

fn changes(c: &mut Criterion) {
    let mut group = c.benchmark_group("change");
    let (table, _) = table();
    let gfn = base(1).plus(7);
    let entry = table.walk(gfn);
    group.bench_function("lock, clear and set a 4K page", |b| {
        b.iter(|| {
            let mut guard = table.lock(black_box(gfn)).unwrap();
            guard.clear_page(gfn);
            guard.set_page(gfn, entry).unwrap();
        });
    });
    let whole = huge(1);
    let entry = table.walk(whole);
    group.bench_function("lock, clear and set a 2M page", |b| {
        b.iter(|| {
            let mut guard = table.lock(black_box(whole)).unwrap();
            guard.clear_huge();
            guard.set_huge(entry).unwrap();
        });
    });
    group.bench_function("split a 2M page, clear 512 pages, set it again", |b| {
        b.iter(|| {
            let mut guard = table.lock(black_box(whole)).unwrap();
            guard.split_huge();
            for gfn in Gfn::all_of(pages(whole, BLOCK_PAGES)) {
                guard.clear_page(gfn);
            }
            drop(guard);
            table.lock(whole).unwrap().set_huge(entry).unwrap();
        });
    });
    group.finish();
}

/// The time that `threads` threads take for `iterations` calls each.
fn in_parallel(work: impl Fn(u64) + Sync, threads: u64, iterations: u64) -> Duration {
    let (work, barrier) = (&work, &Barrier::new(usize::try_from(threads).unwrap()));
    let run = move |thread| {
        barrier.wait();
        let started = Instant::now();
        for _ in 0..iterations {
            work(thread);
        }
        started.elapsed()
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        let own = run(0);
        others.into_iter().map(|other| other.join().unwrap()).fold(own, Duration::max)
    })
}

/// Each thread does its iterations, on folios of its own, so equal times for one and two threads are twice the speed.
fn two_threads(c: &mut Criterion) {
    let mut group = c.benchmark_group("in parallel");
    // What the processors make of two threads that share nothing.
    let lines = [const { Line(AtomicU64::new(0)) }; 2];
    let (table, frames) = table();
    for threads in [1, 2] {
        let mut bench = |name: &str, work: &(dyn Fn(u64) + Sync)| {
            group.bench_function(format!("{name}, {threads} thread(s)"), |b| {
                b.iter_custom(|iterations| in_parallel(work, threads, iterations));
            });
        };
        bench("control: a line each", &|thread| {
            let line = &black_box(&lines)[usize::from(thread > 0)].0;
            line.fetch_add(1, SeqCst);
            line.fetch_sub(1, SeqCst);
        });
        bench("walk, 4K", &|thread| {
            black_box(black_box(&table).walk(base(thread)));
        });
        bench("get + put, 4K", &|thread| drop(black_box(&table).get(base(thread), &frames)));
        bench("pin + unpin, 4K", &|thread| {
            drop(black_box(&table).pin(pages(base(thread), 1), true, &frames));
        });
        bench("lock, clear and set a 2M page", &|thread| {
            let gfn = huge(thread);
            let mut guard = table.lock(gfn).unwrap();
            let entry = guard.clear_huge();
            guard.set_huge(entry).unwrap();
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = look_ups, pins, changes, two_threads
}
criterion_main!(benches);
