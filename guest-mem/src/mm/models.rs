//! loom models of the memory manager as a whole, over a host that maps nothing: 2 threads and 3 forced switches, 3
//! threads and 1 where there are two discards; one 2 MiB range, of which pages 0 and 1 are touched; no fault-around.
//!
//! Each is run as it is, and once with each bug that it must catch ([`planted`](crate::planted)).
//!
//! | model | planted bugs |
//! |---|---|
//! | `faults::on_one_page` | `LookBeforeLock` |
//! | `faults::on_two_pages` | |
//! | `faults::huge` | `TableFirst` |
//! | `faults::huge_and_base` | |
//! | `faults::filled` | `FillUnlooked` |
//! | `faults::given_up` | `LateFill` |
//! | `discards::and_a_fault` | `OpenFirst` `NoWake` `WakeFirst` |
//! | `discards::and_a_subscriber` | `CloseFirst` `FreeBeforeEnd` |
//! | `discards::and_a_reader` | |
//! | `discards::and_a_pin` | `LookThenFree` |
//! | `sharing::of_two_faults` | `MapUncounted` |
//! | `sharing::removal_and_a_fault` | `FaultInClosed` `OpenFirst` `NoWake` |
//! | `sharing::removal_and_a_subscriber` | `TellOnlyOwn` |
//! | `sharing::removal_and_a_pin` | `LookThenFree` |
//! | `sharing::unmapping_and_a_fault` | |
//!
//! In `sharing` there are two address spaces that show one memory, and a thread for each.
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its model")]

mod discards;
mod faults;
mod sharing;

// Not loom's: its destructor panics when loom unwinds the threads of a model that failed.
use std::{
    io,
    mem::ManuallyDrop,
    ops::Range,
    sync::{Arc, PoisonError},
};

use mmu_notifier::{
    AddressRange, PAGE_SIZE,
    sync::{Condvar, Mutex, lock, thread, wait},
};

use super::{FaultAround, Filler, Install, InstallError, MemoryObject, Mm, MmConfig, Scratch, fault::Cause};
use crate::{
    BLOCK_SIZE, Gfn, PageSize,
    models::{Content, explore},
    planted::Bug,
    pool::{Commitment, FramePool, PoolConfig, PoolMemory},
    vma::{HugePolicy, VmaFlags},
};

/// The bound on forced switches.
const PREEMPTIONS: usize = 3;

/// The pages that models touch.
const PAGES: [Gfn; 2] = [Gfn::new(0), Gfn::new(1)];

/// Both of them.
fn both() -> AddressRange {
    AddressRange::new(0, 2 * PAGE_SIZE).unwrap()
}

/// An address space, the host under it, and the pool of its frames.
struct Guest {
    /// Not dropped when loom unwinds.
    mm: ManuallyDrop<Arc<Mm>>,
    host: Arc<Host>,
    pool: Arc<FramePool>,
}

/// A host of which we know what it maps, what the frames hold, and whom it woke.
struct Host {
    /// Changed under the page-table lock. `std`'s, so that it hides no race from loom.
    mapped: std::sync::Mutex<[bool; 2]>,
    content: Arc<[Content; 2]>,
    /// Whether frames are zeroed for this host alone, just before it maps them.
    own: bool,
    /// How often each page's waiters were woken.
    wakes: Mutex<[u64; 2]>,
    woken: Condvar,
}

/// Fills pages with nothing in particular.
struct Nothing;

impl Filler for Nothing {
    fn name(&self) -> &'static str {
        "nothing"
    }

    fn fill(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        Ok(())
    }
}

impl Guest {
    /// Two base pages.
    fn of_base_pages() -> Arc<Self> {
        Self::new(both(), HugePolicy::Never, None)
    }

    /// Two base pages that come from somewhere.
    fn of_filled_pages() -> Arc<Self> {
        Self::new(both(), HugePolicy::Never, Some(Arc::new(Nothing)))
    }

    /// One 2 MiB range, which may be mapped huge.
    fn of_a_huge_page() -> Arc<Self> {
        Self::new(AddressRange::new(0, BLOCK_SIZE).unwrap(), HugePolicy::Always, None)
    }

    fn new(range: AddressRange, huge: HugePolicy, filler: Option<Arc<dyn Filler>>) -> Arc<Self> {
        let config = PoolConfig::new(PoolMemory::None, "2M".parse().unwrap());
        let pool = FramePool::new(&config).unwrap();
        let stretch = pool.reserve(1, Commitment::Overcommitted).unwrap();
        let object = MemoryObject::own(stretch, filler, 1);
        let guest = Self::showing(&object, range, huge, Arc::default());
        guest.make_all();
        guest
    }

    /// A guest that shows `object`, whose frames hold `content`.
    fn showing(
        object: &Arc<MemoryObject>,
        range: AddressRange,
        huge: HugePolicy,
        content: Arc<[Content; 2]>,
    ) -> Arc<Self> {
        let host = Arc::new(Host {
            mapped: std::sync::Mutex::default(),
            content,
            own: !object.is_shared(),
            wakes: Mutex::new([0; 2]),
            woken: Condvar::new(),
        });
        let config = MmConfig {
            flags: VmaFlags { writable: true, huge, ..VmaFlags::default() },
            around: FaultAround::OFF,
            ..MmConfig::new(range)
        };
        let mm = ManuallyDrop::new(Mm::new(&config, Arc::clone(object), host.clone()).unwrap());
        let pool = Arc::clone(mm.pool());
        Arc::new(Self { mm, host, pool })
    }

    /// Makes what is made on first use: loom does not see the `OnceBox` that orders it.
    fn make_all(&self) {
        self.mm.table.lock(PAGES[0]).unwrap().expose_table().unwrap();
        for gfn in PAGES {
            let frame = self.mm.frame(gfn);
            self.mm.folios.claim(frame.index(), PageSize::Base).unwrap().free();
            self.pool.take_zeroed(frame..frame.plus(1)).unwrap();
            self.pool.give_back(frame..frame.plus(1)).unwrap();
        }
    }

    /// What a vCPU does at `gfn`: it faults, sleeps until somebody wakes it, and looks again.
    fn access(&self, gfn: Gfn) {
        self.access_by(gfn, Scratch::default());
    }

    /// As [`access`](Self::access), resolved by a handler with this `scratch`.
    fn access_by(&self, gfn: Gfn, mut scratch: Scratch) {
        while !self.mm.table.walk(gfn).is_present() {
            let before = lock(&self.host.wakes)[gfn.in_block()];
            self.mm.fault(gfn, Cause::NotMapped, &mut scratch).unwrap();
            let mut wakes = lock(&self.host.wakes);
            while wakes[gfn.in_block()] == before {
                wakes = wait(&self.host.woken, wakes);
            }
        }
    }

    /// Uses what the frame of `gfn` holds.
    fn use_page(&self, gfn: Gfn) {
        self.host.content[gfn.in_block()].use_it();
    }

    /// Every reference is an entry's, every frame that is taken is mapped, and in the end all are free.
    fn check_and_end(self: Arc<Self>) {
        let mut frames = 0;
        for gfn in PAGES {
            let entry = self.mm.table.walk(gfn);
            if entry.is_none() || entry.is_huge() && gfn != PAGES[0] {
                continue;
            }
            assert!(entry.is_present(), "{entry:?} was left closed");
            assert_eq!(entry.pfn(), self.mm.frame(gfn));
            let folio = self.mm.folios.borrow(entry.pfn().index(), entry.size()).unwrap();
            assert_eq!((folio.references(), folio.total_mapcount()), (1, 1));
            frames += entry.size().pages();
        }
        assert_eq!(self.pool.report().usage.used, frames, "a frame is taken and not mapped, or the reverse");
        let Ok(guest) = Arc::try_unwrap(self) else { panic!("a thread has not ended") };
        drop(ManuallyDrop::into_inner(guest.mm));
        guest.pool.assert_all_free();
    }
}

impl Host {
    /// The pages of `range` that models look at.
    fn pages(range: &Range<u64>) -> impl Iterator<Item = usize> {
        let range = range.start / PAGE_SIZE..range.end / PAGE_SIZE;
        (0..2).filter(move |page| range.contains(&(*page as u64)))
    }

    fn mapped(&self) -> std::sync::MutexGuard<'_, [bool; 2]> {
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Install for Host {
    fn map(&self, range: Range<u64>, _: bool) -> Result<(), InstallError> {
        if Self::pages(&range).any(|page| self.mapped()[page]) {
            return Err(InstallError::Exists { done: 0 });
        }
        for page in Self::pages(&range) {
            if self.own {
                self.content[page].overwrite();
            }
            self.mapped()[page] = true;
        }
        Ok(())
    }

    fn zap(&self, range: Range<u64>) -> io::Result<()> {
        Self::pages(&range).for_each(|page| self.mapped()[page] = false);
        Ok(())
    }

    fn protect(&self, _: Range<u64>, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn wake(&self, range: Range<u64>) -> io::Result<()> {
        let mut wakes = lock(&self.wakes);
        Self::pages(&range).for_each(|page| wakes[page] += 1);
        drop(wakes);
        self.woken.notify_all();
        Ok(())
    }

    fn poison(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `f` on a thread of its own.
fn spawn(guest: &Arc<Guest>, f: impl FnOnce(&Guest) + 'static) -> thread::JoinHandle<()> {
    let guest = Arc::clone(guest);
    thread::spawn(move || f(&guest))
}
