//! Medians of criterion's samples, where criterion itself prints means.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{BenchmarkGroup, measurement::WallTime};

/// As many as criterion takes if nobody asks for another number.
const SAMPLES: usize = 100;

/// What is measured: takes a number of iterations, and returns how long they took.
pub(crate) type Routine<'a> = &'a mut dyn FnMut(u64) -> Duration;

/// Runs the first of `routines` as the bench `name` of `group`, and in each sample the others behind it, with as many
/// iterations: so all have the same weather. Returns their medians, in nanoseconds an iteration; nothing for a bench
/// that was filtered out, or only tested.
#[expect(clippy::cast_precision_loss, reason = "a sample is far below 2^53 iterations")]
pub(crate) fn medians<const N: usize>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    mut routines: [Routine<'_>; N],
) -> Option<[f64; N]> {
    let mut samples: [Vec<f64>; N] = [const { Vec::new() }; N];
    group.sample_size(SAMPLES).bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let times = routines.each_mut().map(|routine| routine(iterations));
            for (samples, time) in samples.iter_mut().zip(times) {
                samples.push(time.as_secs_f64() * 1e9 / iterations as f64);
            }
            times[0]
        });
    });
    // Those before the last hundred were to warm up.
    let warm = samples[0].len().checked_sub(SAMPLES)?;
    Some(samples.map(|mut samples| {
        samples.drain(..warm);
        samples.sort_by(f64::total_cmp);
        samples[SAMPLES / 2]
    }))
}

/// How long so many calls of `work` take.
pub(crate) fn time<R>(iterations: u64, mut work: impl FnMut() -> R) -> Duration {
    let started = Instant::now();
    for _ in 0..iterations {
        black_box(work());
    }
    started.elapsed()
}
