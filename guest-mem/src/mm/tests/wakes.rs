//! Nobody who was left alone at a fault is left asleep.

use std::{
    io,
    ops::Range,
    sync::{Condvar, Mutex, atomic::AtomicU64},
    thread,
    time::Duration,
};

use mmu_notifier::{Invalidation, Subscriber, WouldBlock};

use super::*;
use crate::{
    FaultAround,
    mm::{Cause, Install, InstallError, Resolved, Scratch, SharedMemory},
    pool::Commitment,
};

/// A host that maps nothing, and lets threads sleep until they are woken.
#[derive(Default)]
struct Sleepers {
    wakes: Mutex<u64>,
    woken: Condvar,
}

impl Sleepers {
    fn count(&self) -> u64 {
        *self.wakes.lock().unwrap()
    }

    /// Sleeps until somebody has been woken more often than `before`.
    fn sleep(&self, before: u64) {
        let wakes = self.wakes.lock().unwrap();
        let asleep = |wakes: &mut u64| *wakes == before;
        let (_wakes, timeout) =
            self.woken.wait_timeout_while(wakes, Duration::from_secs(10), asleep).unwrap();
        assert!(!timeout.timed_out(), "nobody woke who was left alone");
    }
}

impl Install for Sleepers {
    fn map(&self, _: Range<u64>, _: bool) -> Result<(), InstallError> {
        Ok(())
    }

    fn zap(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn protect(&self, _: Range<u64>, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn poison(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn wake(&self, _: Range<u64>) -> io::Result<()> {
        *self.wakes.lock().unwrap() += 1;
        self.woken.notify_all();
        Ok(())
    }
}

/// Shrinks what an address space shows while that ends.
struct Shrinking(SharedMemory);

impl Subscriber for Shrinking {
    fn name(&self) -> &'static str {
        "shrinking"
    }

    fn invalidate_range_start(&self, _: &Invalidation) -> Result<(), WouldBlock> {
        Ok(())
    }

    fn release(&self) {
        self.0.shrink(u64::MAX);
    }
}

#[test]
fn who_faults_while_a_shrink_finds_that_another_address_space_ends_is_woken() {
    let pool = FramePool::new(&PoolConfig::new(PoolMemory::None, "2M".parse().unwrap())).unwrap();
    let size = "2M".parse().unwrap();
    let memory = SharedMemory::new(&pool, size, Commitment::Overcommitted, None).unwrap();
    let config = MmConfig { around: FaultAround::OFF, ..MmConfig::new(pages(0, 16)) };
    let host = Arc::new(Sleepers::default());
    let mm = Mm::new(&config, Arc::clone(memory.object()), host.clone()).unwrap();
    let (over, left) = (AtomicBool::new(false), AtomicU64::new(0));
    // Something that could go.
    mm.fault(gfn(3), Cause::NotMapped, &mut Scratch::default()).unwrap();

    thread::scope(|scope| {
        let faulting = scope.spawn(|| {
            while !over.load(Relaxed) {
                let before = host.count();
                match mm.fault(gfn(7), Cause::NotMapped, &mut Scratch::default()).unwrap() {
                    Resolved::Left => {
                        left.fetch_add(1, Relaxed);
                        host.sleep(before);
                    }
                    Resolved::Done { .. } => mm.dont_need(pages(7, 1)).unwrap(),
                }
            }
        });
        for _ in 0..50_000 {
            let other = Mm::modelled_on(&config, &memory).unwrap();
            other.owner().register(Arc::new(Shrinking(memory.clone()))).unwrap();
            drop(other);
            if left.load(Relaxed) > 2 {
                break;
            }
        }
        over.store(true, Relaxed);
        // ThreadSanitizer does not see how the scope waits.
        faulting.join().unwrap();
    });

    assert!(left.load(Relaxed) > 0, "nobody was left alone");
}
