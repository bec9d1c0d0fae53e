//! What the host does for every touch and for every command, beside a yardstick of the same run.
#![expect(clippy::unwrap_used, reason = "a bench stops by panicking")]

use std::{
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
};

use criterion::{Criterion, criterion_group, criterion_main};
use guest_mem::Backing;
use vmm::{
    driver::{Histogram, Permutation},
    interrupt::Interrupt,
    kvm::{Kvm, Snapshot},
    machine::{Machine, MachineConfig},
};

fn yardstick(criterion: &mut Criterion) {
    let word = AtomicU64::new(0);
    criterion.bench_function("yardstick: fetch_add + fetch_sub", |bencher| {
        bencher.iter(|| {
            word.fetch_add(1, Ordering::SeqCst);
            word.fetch_sub(1, Ordering::SeqCst);
        });
    });
}

fn arithmetic(criterion: &mut Criterion) {
    let permutation = Permutation::new(1_000_000, 1);
    let mut index = 0;
    criterion.bench_function("permutation: one index of a million", |bencher| {
        bencher.iter(|| {
            index = (index + 1) % 1_000_000;
            permutation.apply(black_box(index))
        });
    });
    let mut ticks = 1_u64;
    criterion.bench_function("histogram: bucket of one duration", |bencher| {
        bencher.iter(|| {
            ticks = ticks.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            Histogram::bucket(black_box(ticks >> 40))
        });
    });
}

/// Skipped, with the reason, where there is no KVM.
fn machine(criterion: &mut Criterion) {
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => {
            println!("skipped: {error}");
            return;
        }
    };
    let config = MachineConfig::new("bench", "2M".parse().unwrap(), Backing::Anonymous);
    let interrupt = Interrupt::new().unwrap();
    let mut guest = Machine::new(&kvm, &config, &interrupt).unwrap();
    criterion.bench_function("machine: a command that does nothing, to its result", |bencher| {
        bencher.iter(|| guest.run(&[]).unwrap());
    });
    let stats = guest.stats().unwrap();
    let mut snapshot = Snapshot::default();
    criterion.bench_function("statistics: a snapshot of the VM", |bencher| {
        bencher.iter(|| stats.read(&mut snapshot).unwrap());
    });
    drop(guest);
    criterion.bench_function("machine: made and dropped, 2 MiB of RAM", |bencher| {
        bencher.iter(|| Machine::new(&kvm, &config, &interrupt).unwrap());
    });
}

criterion_group!(benches, yardstick, arithmetic, machine);
criterion_main!(benches);
