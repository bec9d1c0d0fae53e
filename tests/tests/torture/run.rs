//! One run: rounds of the guest's commands under the host's chaos, and the account at the end.

use std::{
    env,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use guest_mem::{Backing, ByteSize, HostSettings, ManagedConfig, ServiceConfig, Stock, Waiting};
use underlay_tests::huge_pages;
use vmm::{
    driver::{Access, Command, Op},
    interrupt::Interrupt,
    kvm::Kvm,
    machine::{Machine, MachineConfig},
};

use super::{
    chaos::{Host, Random},
    filler::{DEADLINE, Unreliable},
    remains::Remains,
    watchdog::{Progress, Settings, Watchdog},
    zones::{NEW, Zone, Zones},
};

/// Bytes of RAM.
pub(crate) const BYTES: u64 = 32 << 20;

/// Half of the time on memory that is zero at first, half on memory that a filler supplies.
pub(crate) fn torture(backing: &Backing, vcpus: u32) {
    // One run at a time: what a process has is looked at.
    let plain = *backing == Backing::Managed4kb;
    let alone = if plain { HostSettings::lock().ok() } else { huge_pages(backing, BYTES) };
    let alone = Arc::new(Mutex::new(alone));
    let seconds = env::var("UNDERLAY_TORTURE_SECONDS").map_or(5.0, |seconds| seconds.parse().unwrap());
    for filler in [None, Some(Arc::new(Unreliable::default()))] {
        let before = Remains::now();
        run(backing, vcpus, filler.as_ref(), Duration::from_secs_f64(seconds / 2.0), &alone);
        before.assert_same();
    }
}

fn config(backing: &Backing, vcpus: u32, filler: Option<&Arc<Unreliable>>) -> MachineConfig {
    let waiting = if vcpus == 2 { Waiting::Sleep } else { Waiting::Spin(Duration::from_micros(50)) };
    let service = ServiceConfig {
        handlers: NonZeroUsize::new(2).unwrap(),
        waiting,
        deadline: DEADLINE,
        cpu: None,
        trace: 64,
    };
    let filler = filler.map(|filler| Arc::clone(filler) as Arc<_>);
    let managed = ManagedConfig { service, stock: Stock::Blocks(4), filler, ..ManagedConfig::default() };
    let size = ByteSize::new(BYTES).unwrap();
    MachineConfig { vcpus, managed, ..MachineConfig::new("torture", size, backing.clone()) }
}

fn run(backing: &Backing, vcpus: u32, filler: Option<&Arc<Unreliable>>, time: Duration, alone: &Settings) {
    let interrupt = Interrupt::new().unwrap();
    let mut machine =
        Machine::new(&Kvm::open().unwrap(), &config(backing, vcpus, filler), &interrupt).unwrap();
    let ram = Arc::clone(machine.ram());
    let progress = Arc::new(Progress::default());
    let watchdog = Watchdog::watch(Arc::clone(&progress), Arc::clone(&ram), Arc::clone(alone));
    let host = Host {
        ram: Arc::clone(&ram),
        zones: Zones::new(),
        filled: filler.is_some(),
        stop: AtomicBool::new(false),
    };

    thread::scope(|scope| {
        for chaos in [Host::discard, Host::change, Host::touch] {
            let host = &host;
            scope.spawn(move || chaos(host));
        }
        // Stops them also when a round panics.
        let _stop = Stop(&host.stop);
        let mut random = Random(4);
        let started = Instant::now();
        while started.elapsed() < time {
            round(&mut machine, &host, &progress, &mut random);
        }
    });

    if let Some(filler) = filler {
        filler.calm_down();
    }
    let mm = ram.mm().unwrap();
    let faults: Vec<_> = mm.stats().faults.into_iter().filter(|fault| fault.count > 0).collect();
    println!(
        "{backing}, {vcpus} vCPUs, {}: {} rounds, {} handlers replaced, {faults:?}",
        if filler.is_some() { "filled" } else { "zeros" },
        progress.rounds.load(Relaxed),
        ram.replaced_handlers()
    );
    // A fill that is still under way ends, and what it mapped goes.
    let ending = Instant::now();
    loop {
        ram.discard(ram.range()).unwrap();
        if mm.pool().report().usage.used == 0 || ending.elapsed() > Duration::from_secs(5) {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!((mm.page_table().mapped().base, mm.page_table().mapped().huge), (0, 0));
    mm.pool().wait_until_stocked();
    mm.pool().assert_all_free();
    drop(watchdog);
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// What a vCPU does in a round.
struct Job {
    zone: Option<Box<Zone>>,
    command: Command,
}

/// Every vCPU fills or verifies a zone of its own, or writes where everything happens.
fn round(machine: &mut Machine, host: &Host, progress: &Progress, random: &mut Random) {
    let mut jobs: Vec<_> = (0..machine.vcpus()).map(|_| Job::new(host, progress, random)).collect();
    let commands: Vec<_> = jobs.iter().map(|job| job.command).collect();
    progress.commands.lock().unwrap().clone_from(&commands);

    let done = machine.run(&commands).unwrap();

    for (job, done) in jobs.iter_mut().zip(done) {
        let Some(mut zone) = job.zone.take() else { continue };
        let (seed, outcome) = (job.command.seed, done.outcome);
        if job.command.op == Op::Fill {
            zone.filled(seed);
        } else {
            let new = host.filled.then_some(NEW);
            zone.assert_verified(seed, outcome.mismatches, outcome.first_mismatch, new);
        }
        host.zones.put_back(zone);
    }
    progress.rounds.fetch_add(1, Relaxed);
}

impl Job {
    fn new(host: &Host, progress: &Progress, random: &mut Random) -> Self {
        if random.below(4) == 0 {
            let wild = Zones::wild();
            let touches = Command {
                op: Op::Touch,
                base: wild.start(),
                count: wild.pages(),
                stride: 4096,
                passes: 2,
                access: [Access::Write, Access::Read][usize::from(random.below(4) == 0)],
                ..Command::default()
            };
            return Self { zone: None, command: touches };
        }
        let zone = host.zones.take(random.below(64));
        let command = match (random.below(3), zone.some_seed(random.below(512))) {
            (0, _) => zone.command(Op::Fill, 1 + progress.rounds.load(Relaxed) * 64 + random.below(64)),
            (1, Some(seed)) => zone.command(Op::Verify, seed),
            _ => zone.command(Op::Verify, NEW),
        };
        Self { zone: Some(zone), command }
    }
}
