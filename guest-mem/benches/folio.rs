//! What references and mapcounts cost, each beside its yardstick: the bare machine operations on the same kind of
//! line. `cargo bench -p guest-mem --bench folio`.
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on says so")]

use std::{
    hint::black_box,
    sync::{
        Barrier,
        atomic::{
            AtomicU32,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use guest_mem::{BLOCK_PAGES, PageSize, folio::FrameTable};

/// Bytes that two threads' yardsticks lie apart.
#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU32);

/// A table with two huge folios, in blocks 0 and 1, and two base folios, in blocks 2 and 3, each with a reference.
fn table() -> FrameTable {
    let table = FrameTable::new(4 * BLOCK_PAGES);
    for (block, size) in
        [PageSize::Huge, PageSize::Huge, PageSize::Base, PageSize::Base].into_iter().enumerate()
    {
        table.claim(block as u64 * BLOCK_PAGES, size).unwrap().unfreeze(1).leak();
    }
    table
}

fn references(c: &mut Criterion) {
    let mut group = c.benchmark_group("references");
    let (line, table) = (Line::default(), table());
    group.bench_function("yardstick: fetch_add + fetch_sub", |b| {
        b.iter(|| {
            black_box(&line).0.fetch_add(1, Acquire);
            black_box(&line).0.fetch_sub(1, Release)
        });
    });
    group.bench_function("try_get + put, huge", |b| {
        b.iter(|| black_box(&table).try_get(black_box(7), PageSize::Huge).is_some());
    });
    group.bench_function("try_get + put, base", |b| {
        b.iter(|| black_box(&table).try_get(black_box(1024), PageSize::Base).is_some());
    });
    let folio = table.try_get(0, PageSize::Huge).unwrap();
    group.bench_function("clone + put", |b| b.iter(|| drop(black_box(&folio).clone())));
    group.bench_function("freeze + unfreeze", |b| {
        let mut folio = Some(table.borrow(BLOCK_PAGES, PageSize::Huge).unwrap().adopt());
        b.iter(|| folio = folio.take().map(|folio| folio.freeze(1).unwrap().unfreeze(1)));
        folio.unwrap().leak();
    });
    group.finish();
}

fn mapcounts(c: &mut Criterion) {
    let mut group = c.benchmark_group("mapcounts");
    let (line, table) = (Line::default(), table());
    let folio = table.borrow(0, PageSize::Huge).unwrap();
    folio.map_huge();
    group.bench_function("yardstick: load + compare", |b| {
        b.iter(|| black_box(&line).0.load(Acquire) == black_box(1));
    });
    group.bench_function("page, only mapped huge", |b| {
        b.iter(|| black_box(&folio).mapcount(black_box(7)) == black_box(1));
    });
    group.bench_function("total, only mapped huge", |b| b.iter(|| black_box(&folio).total_mapcount()));
    group.bench_function("largest, only mapped huge", |b| b.iter(|| black_box(&folio).largest_mapcount()));
    (0..512).for_each(|page| folio.map_page(page));
    group.bench_function("page, mapped both ways", |b| {
        b.iter(|| black_box(&folio).mapcount(black_box(7)) == black_box(1));
    });
    group.bench_function("total, mapped both ways", |b| b.iter(|| black_box(&folio).total_mapcount()));
    group.bench_function("largest, mapped both ways", |b| b.iter(|| black_box(&folio).largest_mapcount()));
    let (plain, atomic) = (vec![1_u32; 512], (0..512).map(|_| AtomicU32::new(1)).collect::<Vec<_>>());
    group.bench_function("yardstick: sum of 512 atomics", |b| {
        b.iter(|| black_box(&atomic[..]).iter().map(|page| page.load(Relaxed)).sum::<u32>());
    });
    group.bench_function("yardstick: largest of 512 atomics", |b| {
        b.iter(|| black_box(&atomic[..]).iter().map(|page| page.load(Relaxed)).max());
    });
    group.bench_function("yardstick: sum of 512 plain words", |b| {
        b.iter(|| black_box(&plain[..]).iter().sum::<u32>());
    });
    group.bench_function("yardstick: largest of 512 plain words", |b| {
        b.iter(|| black_box(&plain[..]).iter().max().copied());
    });
    let base = table.borrow(1024, PageSize::Base).unwrap();
    group.bench_function("page, base", |b| b.iter(|| black_box(&base).mapcount(0) == black_box(1)));
    group.bench_function("map + unmap huge", |b| {
        b.iter(|| {
            folio.map_huge();
            folio.unmap_huge();
        });
    });
    group.bench_function("map + unmap page", |b| {
        b.iter(|| {
            folio.map_page(black_box(7));
            folio.unmap_page(black_box(7));
        });
    });
    group.bench_function("split + 512 unmaps", |b| {
        b.iter(|| {
            folio.map_huge();
            folio.split_mapping();
            (0..512).for_each(|page| folio.unmap_page(page));
        });
    });
    group.finish();
}

fn lock(c: &mut Criterion) {
    let mut group = c.benchmark_group("lock");
    let (line, table) = (Line::default(), table());
    let folio = table.try_get(0, PageSize::Huge).unwrap();
    group.bench_function("yardstick: two locked operations", |b| {
        b.iter(|| {
            black_box(&line).0.fetch_or(1, Acquire);
            black_box(&line).0.fetch_and(0, AcqRel)
        });
    });
    group.bench_function("lock + end_fill", |b| b.iter(|| black_box(&folio).lock().end_fill()));
    group.finish();
}

/// How long `threads` threads take to do `count` operations each, all at once.
fn all_at_once(threads: usize, count: u64, operation: impl Fn(usize) + Sync) -> Duration {
    let start = Barrier::new(threads);
    let timed = |number| {
        start.wait();
        let began = Instant::now();
        (0..count).for_each(|_| operation(number));
        began.elapsed()
    };
    thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|number| scope.spawn(move || timed(number))).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).max().unwrap_or_default()
    })
}

/// The time of one operation, with one thread and with two on folios of their own: as long as they scale, the same.
fn scaling(c: &mut Criterion) {
    let mut group = c.benchmark_group("scaling");
    let (lines, table) = ([Line::default(), Line::default()], table());
    for block in 0..2 {
        table.borrow(block * BLOCK_PAGES, PageSize::Huge).unwrap().map_page(7);
    }
    for threads in [1, 2] {
        let mut bench = |name: &str, operation: &(dyn Fn(usize) + Sync)| {
            group.bench_function(format!("{name}, {threads} threads"), |b| {
                b.iter_custom(|count| all_at_once(threads, count, operation));
            });
        };
        bench("yardstick", &|thread| {
            lines[thread].0.fetch_add(1, Acquire);
            lines[thread].0.fetch_sub(1, Release);
        });
        bench("try_get + put, huge", &|thread| {
            black_box(table.try_get(thread as u64 * BLOCK_PAGES, PageSize::Huge));
        });
        bench("try_get + put, base", &|thread| {
            black_box(table.try_get((2 + thread as u64) * BLOCK_PAGES, PageSize::Base));
        });
        bench("mapcount of a page", &|thread| {
            let folio = table.borrow(thread as u64 * BLOCK_PAGES, PageSize::Huge).unwrap();
            black_box(folio.mapcount(7));
        });
    }
    group.finish();
}

criterion_group!(benches, references, mapcounts, lock, scaling);
criterion_main!(benches);
