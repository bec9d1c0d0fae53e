//! What the README says of speed and size, measured in one run: ratios, each beside its yardstick.
//!
//! `cargo bench -p underlay-tests --bench speed`

use std::{error::Error, num::NonZeroU32};

use guest_mem::Backing;
use serde_json::Value;
use underlay_tests::{huge_pages, underlay};
use vmm::{
    interrupt::Interrupt,
    kvm::Kvm,
    measure::{Plan, Sample},
    report::ticks_to_ns,
};

const SAMPLES: usize = 11;

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo builds benches to test them too: then there is nothing to do.
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    touches()?;
    startup()
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of one run")]
/// The second touch against a pair of time stamps around nothing; the guest's wall time against a timer around KVM_RUN.
fn touches() -> Result<(), Box<dyn Error>> {
    let (kvm, interrupt, plan) = (Kvm::open()?, Interrupt::new()?, Plan::new("64M".parse()?));
    let backings = [Backing::Anonymous, Backing::AnonymousHugetlb2mb];
    let _pages = huge_pages(&Backing::AnonymousHugetlb2mb, plan.mem.bytes());
    let mut second: [Vec<f64>; 2] = Default::default();
    let mut walls: [Vec<f64>; 2] = Default::default();
    let mut frequency = NonZeroU32::MIN;
    for number in 0..=SAMPLES {
        for (index, backing) in backings.iter().enumerate() {
            let sample = Sample::take(&kvm, &plan, backing, 0, &interrupt, None)?;
            if number > 0 {
                frequency = sample.tsc_khz;
                // What is recorded is net of the time stamps.
                let touch = sample.second.ticks.mean() + sample.timer.cost;
                second[index].push(touch / sample.timer.cost);
                let (wall, around) = (sample.first.wall_ns, sample.first.kvm_run_ns);
                walls[index].push(wall as f64 / around.max(1) as f64);
            }
        }
    }
    println!(
        "{SAMPLES} samples each, A B A B; 64 MiB; time stamp counter {:.1} ns a tick",
        ticks_to_ns(1, frequency)
    );
    for (index, backing) in backings.iter().enumerate() {
        println!(
            "{backing}: mean second touch, its time stamps included / a pair of time stamps around nothing: {}",
            spread(&mut second[index])
        );
        println!("{backing}: the guest's wall time / a timer around KVM_RUN: {}", spread(&mut walls[index]));
    }
    Ok(())
}

/// The median, and how far they spread.
fn spread(ratios: &mut [f64]) -> String {
    ratios.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| ratios.get(index).copied().unwrap_or(f64::NAN);
    let last = ratios.len().saturating_sub(1);
    format!("{:.3} ({:.3} to {:.3})", at(last / 2), at(0), at(last))
}

fn startup() -> Result<(), Box<dyn Error>> {
    let finished = underlay(&["startup", "--json"]);
    if finished.code != Some(0) {
        return Err(finished.stderr.into());
    }
    let summary: Value = serde_json::from_str(&finished.stdout)?;
    let last = summary["reached_ns"].as_array().and_then(|stages| stages.last()).ok_or("no stage")?;
    let ms = |value: &Value| value["median"].as_f64().unwrap_or(f64::NAN) / 1e6;
    println!(
        "process start to {}: {:.2} ms; yardstick, this program printing its version: {:.2} ms",
        last[0],
        ms(&last[1]),
        ms(&summary["empty_process_ns"])
    );
    let bytes = summary["overhead_bytes"]["median"].as_f64().unwrap_or(f64::NAN);
    println!("resident in the VMM without its guest's memory: {:.2} MiB", bytes / f64::from(1 << 20));
    Ok(())
}
