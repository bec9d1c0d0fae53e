//! Handlers that were replaced while they still had work in hand.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::{Filler, ManagedConfig, ServiceConfig};

const DEADLINE: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(10);

/// Each fill takes as long as its number says.
#[derive(Default)]
struct Planned {
    fills: AtomicU64,
    /// The fill that takes for ever need not go on.
    enough: AtomicBool,
    /// It went on for as long as anybody would wait.
    in_vain: AtomicBool,
}

impl Planned {
    /// Returns when nobody waits for this fill any more.
    fn stall(&self) {
        let started = Instant::now();
        while !self.enough.load(Relaxed) {
            if started.elapsed() > MOST {
                return self.in_vain.store(true, Relaxed);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Filler for Planned {
    fn name(&self) -> &'static str {
        "planned"
    }

    fn fill(&self, _: u64, into: &mut [u8]) -> io::Result<()> {
        match self.fills.fetch_add(1, Relaxed) {
            // Time for the events of the two other pages, which are read together then.
            0 => thread::sleep(DEADLINE / 2),
            // The first of the two: its handler is replaced, and returns.
            1 => thread::sleep(DEADLINE * 3 / 2),
            // The first again, by the new handler: the old one goes on meanwhile.
            2 => thread::sleep(DEADLINE * 4 / 5),
            3 => self.stall(),
            _ => {}
        }
        into.fill(7);
        Ok(())
    }
}

#[test]
fn a_handler_that_was_replaced_and_stalls_again_keeps_nobody_waiting() {
    let filler = Arc::new(Planned::default());
    let service = ServiceConfig { deadline: DEADLINE, ..ServiceConfig::default() };
    let managed = ManagedConfig { filler: Some(filler.clone()), service, ..ManagedConfig::default() };
    let config = GuestRamConfig { managed, ..config("stalls", Backing::Managed4kb, "2M") };
    let ram = &GuestRam::create(config).unwrap();
    let start = ram.range().start();

    thread::scope(|scope| {
        let touch = |offset| move || ram.view().read_obj::<u8>(GuestAddress(start + offset)).unwrap();
        let first = scope.spawn(touch(0));
        while filler.fills.load(Relaxed) == 0 {
            thread::yield_now();
        }
        let others = [scope.spawn(touch(M / 2)), scope.spawn(touch(M))];
        assert_eq!(first.join().unwrap(), 7);
        assert_eq!(others.map(|other| other.join().unwrap()), [7, 7]);
        filler.enough.store(true, Relaxed);
    });

    assert!(!filler.in_vain.load(Relaxed), "somebody waited for a filler that had passed its deadline");
}

/// Its first fill takes until it is told that it is enough.
#[derive(Default)]
struct Endless {
    fills: AtomicU64,
    enough: AtomicBool,
    returned: AtomicBool,
}

impl Filler for Endless {
    fn name(&self) -> &'static str {
        "endless"
    }

    fn fill(&self, _: u64, into: &mut [u8]) -> io::Result<()> {
        if self.fills.fetch_add(1, Relaxed) == 0 {
            while !self.enough.load(Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
            self.returned.store(true, Relaxed);
        }
        into.fill(7);
        Ok(())
    }
}

#[test]
fn a_filler_that_never_returns_keeps_nothing_of_a_ram_that_has_gone() {
    let filler = Arc::new(Endless::default());
    let service = ServiceConfig { deadline: DEADLINE, ..ServiceConfig::default() };
    let managed = ManagedConfig { filler: Some(filler.clone()), service, ..ManagedConfig::default() };
    let ram =
        GuestRam::create(GuestRamConfig { managed, ..config("endless", Backing::Managed4kb, "2M") }).unwrap();
    assert_eq!(ram.view().read_obj::<u8>(GuestAddress(ram.range().start())).unwrap(), 7);
    let mm = Arc::downgrade(ram.mm().unwrap());
    assert_eq!(ram.replaced_handlers(), 1);

    drop(ram);

    assert!(mm.upgrade().is_none(), "the memory manager outlives its RAM");
    assert_eq!(maps_with("underlay:endless:"), [""; 0]);
    assert!(!filler.returned.load(Relaxed));
    filler.enough.store(true, Relaxed);
    let started = Instant::now();
    // The handler has gone when the filler is nobody's but this test's.
    while Arc::strong_count(&filler) > 1 {
        assert!(started.elapsed() < MOST, "the handler that was left behind does not end");
        thread::sleep(Duration::from_millis(1));
    }
}
