//! How many faults a second underlay resolves for real vCPUs: 1, 2 and 4 of them, 1 and 2 handlers, sleeping and spinning.
//!
//! `cargo bench -p underlay-tests --bench fault_scaling`
//!
//! Each vCPU touches 4 KiB pages of a part of its own in random order, and each fault maps its page alone, so that a
//! touch is a fault. The yardstick of the same run is the kernel resolving the same touches. Samples take turns.

use std::{error::Error, num::NonZeroUsize, time::Duration};

use guest_mem::{Backing, FaultAround, ManagedConfig, ServiceConfig, Waiting};
use vmm::{
    interrupt::Interrupt,
    kvm::Kvm,
    measure::{Pattern, Plan, Sample},
};

const SAMPLES: usize = 5;
const VCPUS: [u32; 3] = [1, 2, 4];
const SPIN: Waiting = Waiting::Spin(Duration::from_millis(1));

/// Who resolves the faults.
struct Resolver {
    name: &'static str,
    backing: Backing,
    handlers: NonZeroUsize,
    waiting: Waiting,
    /// Median faults a second come from these, for each number of vCPUs.
    rates: [Vec<f64>; VCPUS.len()],
}

impl Resolver {
    fn new(name: &'static str, backing: Backing, handlers: usize, waiting: Waiting) -> Self {
        let handlers = NonZeroUsize::new(handlers).unwrap_or(NonZeroUsize::MIN);
        Self { name, backing, handlers, waiting, rates: Default::default() }
    }

    fn plan(&self, vcpus: u32) -> Result<Plan, Box<dyn Error>> {
        let service =
            ServiceConfig { handlers: self.handlers, waiting: self.waiting, ..ServiceConfig::default() };
        let managed = ManagedConfig { around: FaultAround::OFF, service, ..ManagedConfig::default() };
        Ok(Plan { vcpus, pattern: Pattern::Random, managed, ..Plan::new("16M".parse()?) })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo builds benches to test them too: then there is nothing to do.
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    let (kvm, interrupt) = (Kvm::open()?, Interrupt::new()?);
    let mut resolvers = [
        Resolver::new("kernel, anonymous", Backing::Anonymous, 1, Waiting::Sleep),
        Resolver::new("underlay, 1 handler that sleeps", Backing::Managed4kb, 1, Waiting::Sleep),
        Resolver::new("underlay, 2 handlers that sleep", Backing::Managed4kb, 2, Waiting::Sleep),
        Resolver::new("underlay, 1 handler that spins", Backing::Managed4kb, 1, SPIN),
        Resolver::new("underlay, 2 handlers that spin", Backing::Managed4kb, 2, SPIN),
    ];
    for number in 0..=SAMPLES {
        for resolver in &mut resolvers {
            for (place, vcpus) in VCPUS.into_iter().enumerate() {
                let plan = resolver.plan(vcpus)?;
                let sample = Sample::take(&kvm, &plan, &resolver.backing, 0, &interrupt, None)?;
                // The first warms up.
                if number > 0 {
                    resolver.rates[place].push(faults_per_second(&sample));
                }
            }
        }
    }
    println!(
        "thousand faults a second, medians of {SAMPLES}; in brackets to the same resolver's with 1 vCPU"
    );
    println!("{:<34}{:>18}{:>18}{:>18}", "resolved by", "1 vCPU", "2 vCPUs", "4 vCPUs");
    for resolver in &mut resolvers {
        let rates = resolver.rates.each_mut().map(|rates| median(rates));
        let cells = rates.map(|rate| format!("{:.1} ({:.2})", rate / 1000.0, rate / rates[0]));
        println!("{:<34}{:>18}{:>18}{:>18}", resolver.name, cells[0], cells[1], cells[2]);
    }
    Ok(())
}

/// Of KVM, without the doorbells.
#[expect(clippy::cast_precision_loss, reason = "faults and nanoseconds of one sample")]
fn faults_per_second(sample: &Sample) -> f64 {
    sample.first.kvm.pf_fixed as f64 / (sample.first.wall_ns.max(1) as f64 / 1e9)
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_unstable_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
}
