//! vCPU threads that touch while others discard and change: nobody uses a frame after it was freed, and what is held is
//! true whenever somebody looks.
//!
//! Each frame has a generation, which goes up when it is freed: at the end of the invalidation that took it away. Whoever
//! installs a translation stamps it with its frame's generation, and every use compares the two.

use std::{
    ops::Range,
    sync::{
        Arc, Barrier,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
};

use guest_mem::{
    BLOCK_PAGES, FaultAround, Gfn, Mm,
    vma::{HugePolicy, VmaChange},
};
use mmu_notifier::{Event, Invalidation, Subscriber, WouldBlock};
use vmm::model::{Access, AccessError, Level, SecondStage};

use crate::space::{PAGES, address, gfn, mm, pages, place};

/// Steps of each thread.
const STEPS: u64 = 3_000;

/// A xorshift generator: the same steps in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    /// A page; half of them are few, so that threads meet.
    fn page(&mut self) -> u64 {
        if self.below(2) == 0 { BLOCK_PAGES - 4 + self.below(8) } else { self.below(PAGES) }
    }

    fn range(&mut self) -> Range<u64> {
        let first = self.page();
        let count = if self.below(2) == 0 { 1 + self.below(8) } else { 1 + self.below(PAGES) };
        first..(first + count).min(PAGES)
    }
}

/// Which frames were freed how often.
#[derive(Debug)]
struct Generations {
    base: Gfn,
    /// By page: frames have the order of their pages.
    frames: Vec<AtomicU64>,
    /// The generation that a translation of the page was installed with, by its frame.
    stamps: Vec<AtomicU64>,
}

impl Generations {
    fn new() -> Self {
        let none = || (0..PAGES).map(|_| AtomicU64::new(0)).collect();
        Self { base: gfn(0), frames: none(), stamps: none() }
    }

    /// Called under the second stage's lock, for an access that has its frame.
    fn used(&self, mm: &Mm, address: u64, access: Access) {
        let at = place(mm, access.frame);
        if access.installed {
            let first = place(mm, access.leaf.first);
            let count = usize::try_from(access.leaf.level.frames()).unwrap();
            for frame in first..first + count {
                self.stamps[frame].store(self.frames[frame].load(SeqCst), SeqCst);
            }
        }
        let (stamp, generation) = (self.stamps[at].load(SeqCst), self.frames[at].load(SeqCst));
        assert_eq!(stamp, generation, "{address:#x} is used after its frame was freed: {access:?}");
        let now = mm.page_table().walk(Gfn::of(address));
        let same = now.is_present() && now.pfn_of(Gfn::of(address)) == access.frame;
        assert!(same && (now.is_writable() || !access.leaf.writable), "{access:?}, but {now:?}");
    }
}

impl Subscriber for Generations {
    fn name(&self) -> &'static str {
        "generations"
    }

    fn invalidate_range_start(&self, _: &Invalidation) -> Result<(), WouldBlock> {
        Ok(())
    }

    fn invalidate_range_end(&self, invalidation: &Invalidation) {
        if invalidation.event() != Event::Clear {
            return;
        }
        for page in Gfn::all_of(invalidation.range()) {
            let at = usize::try_from(page.get() - self.base.get()).unwrap();
            self.frames[at].fetch_add(1, SeqCst);
        }
    }
}

/// One memory manager, two second stages of it, and what is known of its frames.
struct World {
    mm: Arc<Mm>,
    stages: [(SecondStage, Arc<Generations>); 2],
    done: AtomicBool,
    denied: AtomicU64,
}

impl World {
    fn new(huge: HugePolicy, around: FaultAround) -> Self {
        let mm = mm(huge, around);
        let stage = |largest| {
            // First, so that it hears of the end before the second stage does.
            let generations = Arc::new(Generations::new());
            mm.owner().register(Arc::clone(&generations) as Arc<_>).unwrap();
            (SecondStage::with_leaves(&mm, largest).unwrap(), generations)
        };
        let stages = [Level::G1, Level::K4].map(stage);
        Self { mm, stages, done: AtomicBool::new(false), denied: AtomicU64::new(0) }
    }

    fn touch(&self, random: &mut Random) {
        let (stage, generations) = &self.stages[usize::from(random.below(2) == 0)];
        let (at, write) = (address(random.page()), random.below(2) == 0);
        match stage.access_with(at, write, |access| generations.used(&self.mm, at, access)) {
            Ok(()) => {}
            // Not writable now, or in the hands of others for long.
            Err(AccessError::Fault(_)) => drop(self.denied.fetch_add(1, Relaxed)),
            Err(error) => panic!("{error}"),
        }
    }

    fn discard(&self, random: &mut Random) {
        let range = random.range();
        self.mm.discard(pages(range.start, range.end - range.start)).unwrap();
    }

    /// Of whole blocks: a huge page has one permission.
    fn change(&self, random: &mut Random) {
        let range = pages(random.below(3) * BLOCK_PAGES, BLOCK_PAGES);
        let on = random.below(4) > 0;
        let change = match random.below(4) {
            0 => VmaChange::Writable(on),
            1 => VmaChange::DirtyTracked(on),
            2 => VmaChange::Huge(if on { HugePolicy::Always } else { HugePolicy::Never }),
            _ => return drop(self.mm.dirty_pages(range, on).unwrap()),
        };
        self.mm.modify(range, &change).unwrap();
    }

    fn look(&self) {
        for (stage, _) in &self.stages {
            stage.check().unwrap();
        }
    }
}

/// Runs threads of `work`, all beside each other and beside one that looks all the time.
fn together(world: &World, seed: u64, work: &[fn(&World, &mut Random)]) {
    let start = Barrier::new(work.len() + 1);
    thread::scope(|scope| {
        let workers: Vec<_> = (1..)
            .zip(work)
            .map(|(number, step)| {
                let start = &start;
                scope.spawn(move || {
                    let mut random = Random((seed << 8 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                    start.wait();
                    for _ in 0..STEPS {
                        step(world, &mut random);
                    }
                })
            })
            .collect();
        let looker = scope.spawn(|| {
            start.wait();
            while !world.done.load(Relaxed) {
                world.look();
                thread::yield_now();
            }
        });
        let results: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        world.done.store(true, Relaxed);
        looker.join().unwrap();
        for result in results {
            result.unwrap();
        }
    });
    world.done.store(false, Relaxed);
}

fn run(huge: HugePolicy, around: FaultAround) {
    let world = World::new(huge, around);

    for seed in 1..3 {
        together(&world, seed, &[World::touch, World::touch, World::discard, World::change]);
        // Nobody runs: at a quiet point.
        world.look();
    }

    world.mm.discard(pages(0, PAGES)).unwrap();
    assert!(world.stages.iter().all(|(stage, _)| stage.mapped().bytes() == 0));
    world.mm.pool().assert_all_free();
    let faults = world.stages.each_ref().map(|(stage, _)| stage.faults());
    assert!(faults.iter().all(|faults| faults.fixed > 0), "{faults:?}");
}

#[test]
fn no_frame_of_a_huge_page_is_used_after_it_was_freed() {
    run(HugePolicy::Always, FaultAround::OFF);
}

#[test]
fn no_frame_of_a_base_page_is_used_after_it_was_freed() {
    run(HugePolicy::Never, FaultAround::default());
}
