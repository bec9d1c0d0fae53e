//! Who touches, and what it cost.
#![expect(unsafe_code, reason = "touches memory that others map, and reads the process's clock")]
#![expect(clippy::cast_precision_loss, reason = "a sample is far below 2^53 nanoseconds")]

use std::{ptr, sync::Barrier, thread, time::Instant};

use super::PAGE;

/// Pages to touch, in this order.
pub(crate) struct Touches(Vec<usize>);

/// What one touch cost, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// From the first touch to the last, divided by their number.
    pub(crate) wall: f64,
    /// The least of all samples: what it takes when nobody else runs.
    pub(crate) least: f64,
    /// Of all threads of the process meanwhile.
    pub(crate) cpu: f64,
}

impl Touches {
    /// `count` of the first `pages` pages, in no order; the same for the same `seed`.
    pub(crate) fn random(pages: usize, count: usize, seed: u64) -> Self {
        let mut order: Vec<_> = (0..pages).collect();
        let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
        for at in 0..count {
            // Marsaglia's xorshift.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let ahead = usize::try_from(state % (pages - at) as u64).unwrap_or(0);
            order.swap(at, at + ahead);
        }
        order.truncate(count);
        Self(order)
    }

    /// Writes the pages of the memory at `address`, which is mapped, writable and large enough: each of `threads` threads
    /// its share.
    pub(crate) fn run(&self, address: usize, threads: usize) -> Cost {
        let ready = Barrier::new(threads + 1);
        thread::scope(|scope| {
            let threads: Vec<_> = self
                .0
                .chunks(self.0.len().div_ceil(threads))
                .map(|share| {
                    let ready = &ready;
                    scope.spawn(move || {
                        ready.wait();
                        for page in share {
                            let place = ptr::with_exposed_provenance_mut::<u8>(address + page * PAGE);
                            // SAFETY: the caller maps it; each page is one thread's.
                            unsafe { place.write_volatile(1) };
                        }
                    })
                })
                .collect();
            let cpu = process_micros();
            let started = Instant::now();
            ready.wait();
            for thread in threads {
                // Nothing in it panics.
                let _ = thread.join();
            }
            let touches = self.0.len() as f64;
            let wall = started.elapsed().as_secs_f64() * 1e6 / touches;
            Cost { wall, least: wall, cpu: (process_micros() - cpu) / touches }
        })
    }
}

impl Cost {
    /// The median of each.
    pub(crate) fn median(costs: &[Self]) -> Self {
        let median = |of: fn(&Self) -> f64| {
            let mut values: Vec<_> = costs.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let least = costs.iter().map(|cost| cost.least).fold(f64::INFINITY, f64::min);
        Self { wall: median(|cost| cost.wall), least, cpu: median(|cost| cost.cpu) }
    }
}

/// The CPU time of all threads of this process, in microseconds.
fn process_micros() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec`. That clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}
