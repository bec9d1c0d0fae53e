//! Samples of several backings, taken in turn so that a drift of the machine meets all of them alike.

use std::{num::NonZeroU32, time::Duration};

use guest_mem::Backing;
use hdrhistogram::Histogram;

use super::{
    Accel, ManagedSample, Pattern, Plan, Sample, SampleError, Stages, TouchSink, access_name, combine,
    histogram, modelled,
};
use crate::{
    interrupt::Interrupt,
    report::{
        Latency, Managed, ManagedSetup, Run, SLOW_NS, Spread, StageTimes, median_index, nanoseconds,
        ticks_to_ns,
    },
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
    accel: Accel<'_>,
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
            let sample = match accel {
                Accel::Kvm(kvm) => Sample::take(kvm, plan, backing, number, interrupt, sink),
                Accel::Model => modelled::take(plan, backing, number, interrupt, sink),
            };
            let sample = sample.map_err(|source| {
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
        summarize(accel, plan, backing, samples)
            .map_err(|source| MeasureError::Sample { backing: backing.clone(), source: Box::new(source) })
    });
    Ok(Measurement { runs: runs.collect::<Result<_, _>>()?, tsc_khz })
}

/// The figures of one backing. Distributions are of all samples, counts of the one with the median wall time.
fn summarize(
    accel: Accel<'_>,
    plan: &Plan,
    backing: &Backing,
    samples: &[Sample],
) -> Result<Run, SampleError> {
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
    let cpu: Vec<u64> = samples.iter().map(|sample| whole_ns(sample.cpu)).collect();
    let slow = slower_than(&first, SLOW_NS, tsc_khz)?;
    let first_p50 = |sample: &Sample| {
        Latency::of_ticks(&sample.first.ticks, tsc_khz)
            .map(|latency| latency.p50)
            .ok_or(SampleError::NoSample)
    };
    let checks: Vec<_> = samples.iter().map(|sample| accel.check(plan, sample)).collect();
    Ok(Run {
        backing: backing.to_string(),
        accel: accel.name().to_owned(),
        resolved_by: backing.resolved_by().to_owned(),
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
        cpu_ns: Spread::of(&cpu).ok_or(SampleError::NoSample)?,
        first_touch_ns: latency(&first)?,
        second_touch_ns: latency(&second)?,
        timer_ns: nanoseconds(shown.timer.cost, tsc_khz),
        timer_step_ns: ticks_to_ns(shown.timer.step, tsc_khz),
        slow_touches: shown.first.slow,
        slow_touch_ns: Latency::of_ticks(&slow, tsc_khz),
        kvm: shown.first.kvm,
        mapped: shown.mapped,
        host_faults: shown.first.host,
        resident_bytes: shown.resident_bytes,
        managed: shown
            .managed
            .as_ref()
            .map(|managed| summarize_managed(plan, managed, samples, tsc_khz))
            .transpose()?,
        sample_wall_ns: walls,
        sample_first_touch_p50_ns: samples.iter().map(first_p50).collect::<Result<_, _>>()?,
        checks: combine(&checks, median),
    })
}

/// What a managed RAM did in the median sample, and the stages of all.
fn summarize_managed(
    plan: &Plan,
    shown: &ManagedSample,
    samples: &[Sample],
    tsc_khz: NonZeroU32,
) -> Result<Managed, SampleError> {
    let faults = shown.faults.faults.iter().map(|fault| (fault.reason.name().to_owned(), fault.count));
    Ok(Managed {
        setup: ManagedSetup::of(&plan.managed),
        faults: faults.collect(),
        mapped_4k: shown.mapped.base,
        mapped_2m: shown.mapped.huge,
        stock_hits: shown.stock_hits,
        zeroed_in_fault: shown.zeroed_at_take,
        stock_wait_ns: whole_ns(shown.stock_wait),
        stages: stage_times(samples, tsc_khz)?,
        memory: Some(shown.memory.clone()),
    })
}

/// The stages of all samples together; `None` if one of them has none.
fn stage_times(samples: &[Sample], tsc_khz: NonZeroU32) -> Result<Option<StageTimes>, SampleError> {
    let mut all = Stages::none()?;
    for sample in samples {
        let Some(stages) = sample.managed.as_ref().and_then(|managed| managed.stages.as_ref()) else {
            return Ok(None);
        };
        all.merge(stages);
    }
    // Without a fault there is nothing to be told of any.
    let latency = |ticks| Latency::of_ticks(ticks, tsc_khz).unwrap_or_default();
    Ok(Some(StageTimes {
        faults: all.wake.len(),
        touch_ns: latency(&all.touch),
        wake_ns: latency(&all.wake),
        resolve_ns: latency(&all.resolve),
        resume_ns: latency(&all.resume),
        clock_error_ns: ticks_to_ns(all.error, tsc_khz),
    }))
}

/// Those of `ticks` that are longer than `limit` nanoseconds.
fn slower_than(
    ticks: &Histogram<u64>,
    limit: f64,
    tsc_khz: NonZeroU32,
) -> Result<Histogram<u64>, SampleError> {
    let mut slower = histogram()?;
    for value in ticks.iter_recorded() {
        let at = value.value_iterated_to();
        if ticks_to_ns(at, tsc_khz) > limit {
            slower.saturating_record_n(at, value.count_at_value());
        }
    }
    Ok(slower)
}

/// A duration in whole nanoseconds.
fn whole_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
