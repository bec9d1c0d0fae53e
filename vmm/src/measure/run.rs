//! Samples of several backings, taken in turn so that a drift of the machine meets all of them alike.

use std::num::NonZeroU32;

use guest_mem::Backing;

use super::{Pattern, Plan, Sample, SampleError, TouchSink, access_name, check_sample, combine, histogram};
use crate::{
    interrupt::Interrupt,
    kvm::Kvm,
    report::{Latency, Run, Spread, median_index, nanoseconds, ticks_to_ns},
};

/// What wants to know how far the measurement has come.
pub trait Progress {
    /// A sample of `backing` is about to be taken; `sample` 0 is the warm-up.
    fn sample(&mut self, backing: &Backing, sample: u32);
}

/// What a measurement found.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// One entry for each backing, in the order in which they were given.
    pub runs: Vec<Run>,
    /// The frequency of the guests' time stamp counter, in kHz.
    pub tsc_khz: NonZeroU32,
}

/// Why a measurement ended early.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The user asked us to stop.
    #[error("interrupted")]
    Interrupted,
    /// A sample could not be taken.
    #[error("cannot measure {backing}")]
    Sample {
        /// The backing's name.
        backing: Backing,
        /// What failed.
        #[source]
        source: Box<SampleError>,
    },
}

/// Measures every backing in `backings`, each [`Plan::samples`] times and once before that to warm up: A B A B, not
/// A A B B.
///
/// # Errors
/// [`MeasureError`]; what was measured until then is thrown away.
pub fn measure(
    kvm: &Kvm,
    plan: &Plan,
    backings: &[Backing],
    interrupt: &Interrupt,
    progress: &mut dyn Progress,
    mut every_touch: Option<TouchSink<'_>>,
) -> Result<Measurement, MeasureError> {
    let mut tsc_khz = NonZeroU32::MIN;
    let mut samples: Vec<Vec<Sample>> = backings.iter().map(|_| Vec::new()).collect();
    for number in 0..=plan.samples {
        for (backing, samples) in backings.iter().zip(&mut samples) {
            if interrupt.is_raised() {
                return Err(MeasureError::Interrupted);
            }
            progress.sample(backing, number);
            let counted = number > 0;
            // Reborrowed for one sample.
            let sink: Option<TouchSink<'_>> = match &mut every_touch {
                Some(sink) if counted => Some(&mut **sink),
                _ => None,
            };
            let sample = Sample::take(kvm, plan, backing, number, interrupt, sink).map_err(|source| {
                if interrupt.is_raised() {
                    MeasureError::Interrupted
                } else {
                    MeasureError::Sample { backing: backing.clone(), source: Box::new(source) }
                }
            })?;
            tsc_khz = sample.tsc_khz;
            if counted {
                samples.push(sample);
            }
        }
    }
    let runs = backings.iter().zip(&samples).map(|(backing, samples)| {
        summarize(plan, backing, samples)
            .map_err(|source| MeasureError::Sample { backing: backing.clone(), source: Box::new(source) })
    });
    Ok(Measurement { runs: runs.collect::<Result<_, _>>()?, tsc_khz })
}

/// The figures of one backing. Distributions are of all samples, counts of the one with the median wall time.
fn summarize(plan: &Plan, backing: &Backing, samples: &[Sample]) -> Result<Run, SampleError> {
    let walls: Vec<u64> = samples.iter().map(|sample| sample.first.wall_ns).collect();
    let (mut first, mut second) = (histogram()?, histogram()?);
    for sample in samples {
        first += &sample.first.ticks;
        second += &sample.second.ticks;
    }
    let median = median_index(&walls).ok_or(SampleError::NoSample)?;
    let shown = &samples[median];
    let tsc_khz = shown.tsc_khz;
    let latency = |ticks| Latency::of_ticks(ticks, tsc_khz).ok_or(SampleError::NoSample);
    let first_p50 = |sample: &Sample| {
        Latency::of_ticks(&sample.first.ticks, tsc_khz)
            .map(|latency| latency.p50)
            .ok_or(SampleError::NoSample)
    };
    let checks: Vec<_> = samples.iter().map(|sample| check_sample(plan, sample)).collect();
    Ok(Run {
        backing: backing.to_string(),
        resolved_by: "kernel".to_owned(),
        mem_bytes: plan.mem.bytes(),
        guest_page_bytes: plan.guest_page.bytes(),
        vcpus: plan.vcpus,
        overlap: plan.overlap,
        access: access_name(plan.access).to_owned(),
        pattern: plan.pattern.to_string(),
        prefault: plan.prefault.is_some(),
        seed: (plan.pattern == Pattern::Random).then_some(plan.seed),
        pin: plan.pin.clone(),
        numa_node: plan.numa_node,
        samples: plan.samples,
        touches: shown.first.touches,
        wall_ns: Spread::of(&walls).ok_or(SampleError::NoSample)?,
        first_touch_ns: latency(&first)?,
        second_touch_ns: latency(&second)?,
        timer_ns: nanoseconds(shown.timer.cost, tsc_khz),
        timer_step_ns: ticks_to_ns(shown.timer.step, tsc_khz),
        slow_touches: shown.first.slow,
        kvm: shown.first.kvm,
        mapped: shown.mapped,
        host_faults: shown.first.host,
        resident_bytes: shown.resident_bytes,
        sample_wall_ns: walls,
        sample_first_touch_p50_ns: samples.iter().map(first_p50).collect::<Result<_, _>>()?,
        checks: combine(&checks, median),
    })
}
