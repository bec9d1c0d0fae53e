//! First touches of base pages in no order: managed guest RAM beside the least that userfaultfd lets anybody do, a
//! loop of read and UFFDIO_COPY, with the same kind of handler. And how many faults a second there are with more
//! threads on either side.
//!
//! A thread of this process touches: what a vCPU adds is the same for both. Samples of all contestants are taken in
//! turn, so that all have the same weather; what is said is their medians.

mod copy_loop;
mod touch;

use std::{collections::BTreeMap, env, error::Error, num::NonZeroUsize, time::Duration};

use guest_mem::{
    Backing, FaultAround, GuestRam, GuestRamConfig, ManagedConfig, ServiceConfig, Stock, Waiting,
};

use copy_loop::CopyLoop;
use touch::{Cost, Touches};

/// Pages that a sample's memory has; half of them are touched.
const PAGES: usize = 16 << 10;
const PAGE: usize = 4096;

/// Who resolves the faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Contestant {
    /// The minimal loop; its handler spins or sleeps.
    Copy { spins: bool },
    /// Managed guest RAM; its frames are zeroed ahead, or each in its fault.
    Managed { spins: bool, stocked: bool, handlers: usize },
}

impl Contestant {
    const fn managed(spins: bool, stocked: bool) -> Self {
        Self::Managed { spins, stocked, handlers: 1 }
    }

    /// Has fresh memory touched by `threads` threads.
    fn sample(self, touches: &Touches, threads: usize) -> Result<Cost, Box<dyn Error>> {
        match self {
            Self::Copy { spins } => {
                let memory = CopyLoop::start(PAGES * PAGE, spins)?;
                Ok(touches.run(memory.address(), threads))
            }
            Self::Managed { spins, stocked, handlers } => {
                let ram = managed(spins, stocked, handlers)?;
                Ok(touches.run(usize::try_from(ram.host_address().get())?, threads))
            }
        }
    }
}

fn managed(spins: bool, stocked: bool, handlers: usize) -> Result<GuestRam, Box<dyn Error>> {
    let waiting = if spins { Waiting::Spin(Duration::from_mins(1)) } else { Waiting::Sleep };
    let handlers = NonZeroUsize::new(handlers).ok_or("no handler")?;
    let mut config = GuestRamConfig::new(format!("{}K", (PAGES * PAGE) >> 10).parse()?, Backing::Managed4kb);
    config.managed = ManagedConfig {
        around: FaultAround::OFF,
        service: ServiceConfig { handlers, waiting, ..ServiceConfig::default() },
        stock: if stocked { Stock::All } else { Stock::None },
        ..ManagedConfig::default()
    };
    let ram = GuestRam::create(config)?;
    ram.mm().ok_or("not managed")?.pool().wait_until_stocked();
    Ok(ram)
}

/// The medians of all contestants' wall and CPU times, each in microseconds a fault; samples are taken in turn.
fn medians(
    contestants: &[(Contestant, usize)],
    samples: usize,
) -> Result<BTreeMap<(Contestant, usize), Cost>, Box<dyn Error>> {
    let mut all: BTreeMap<_, Vec<Cost>> = BTreeMap::new();
    for round in 0..samples as u64 {
        let touches = Touches::random(PAGES, PAGES / 2, round);
        for &(contestant, threads) in contestants {
            all.entry((contestant, threads)).or_default().push(contestant.sample(&touches, threads)?);
        }
    }
    Ok(all.into_iter().map(|(key, costs)| (key, Cost::median(&costs))).collect())
}

fn against_the_copy_loop(samples: usize) -> Result<(), Box<dyn Error>> {
    let contestants = [false, true].map(|spins| {
        let managed = [true, false].map(|stocked| Contestant::managed(spins, stocked));
        [(Contestant::Copy { spins }, 1), (managed[0], 1), (managed[1], 1)]
    });
    let medians = medians(contestants.as_flattened(), samples)?;
    println!(
        "\nrandom first touches of 4 KiB, one thread; medians of {samples} samples, microseconds a fault"
    );
    let columns = ["wall", "ratio", "least", "ratio", "CPU", "ratio"].map(|name| format!("{name:>8}"));
    println!("{:<10} {:<24} {}", "handler", "", columns.join(" "));
    for (spins, handler) in [(false, "sleeping"), (true, "spinning")] {
        let base = medians[&(Contestant::Copy { spins }, 1)];
        let rows = [
            (Contestant::Copy { spins }, "UFFDIO_COPY loop"),
            (Contestant::managed(spins, true), "managed, zeroed ahead"),
            (Contestant::managed(spins, false), "managed, no stock"),
        ];
        for (contestant, name) in rows {
            let Cost { wall, least, cpu } = medians[&(contestant, 1)];
            let pairs = [(wall, base.wall), (least, base.least), (cpu, base.cpu)];
            let columns = pairs.map(|(this, base)| format!("{this:>8.2} {:>8.2}", this / base));
            println!("{handler:<10} {name:<24} {}", columns.join(" "));
        }
    }
    Ok(())
}

fn faults_a_second(samples: usize) -> Result<(), Box<dyn Error>> {
    let managed = |handlers| Contestant::Managed { spins: false, stocked: true, handlers };
    let threads = [1, 2, 4];
    let all: Vec<_> = [1, 2].iter().flat_map(|&h| threads.map(|t| (managed(h), t))).collect();
    let medians = medians(&all, samples)?;
    println!("\nmanaged, sleeping handlers; thousands of faults a second");
    println!("{:<22} {:>10} {:>10}", "threads that touch", "1 handler", "2 handlers");
    for threads in threads {
        let [one, two] = [1, 2].map(|handlers| 1e3 / medians[&(managed(handlers), threads)].wall);
        println!("{threads:<22} {one:>10.0} {two:>10.0}");
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    // Without it this is a test of the bench.
    let samples = if env::args().any(|argument| argument == "--bench") { 21 } else { 1 };
    if let Err(error) = CopyLoop::start(PAGE, false) {
        println!("there is no userfaultfd here, so nothing is measured: {error}");
        return Ok(());
    }
    against_the_copy_loop(samples)?;
    faults_a_second(samples)
}
