//! What registering a notifier under all locks costs for each mapping: the kernel's way, and ours.
//!
//! KVM_CREATE_VM registers an mmu notifier, for which the kernel takes every lock of the process's address space. How
//! much slower it gets with each VMA is therefore what the kernel pays for one VMA lock and one anon_vma lock, taken
//! and released. `take_all_locks` pays for the same two locks. Both are measured in one run and in turns, at several
//! numbers of mappings; the table gives medians, and what each mapping added since none.
//!
//! Needs /dev/kvm, and a vm.max_map_count (65,530 unless somebody changed it) above the largest number of mappings.
#![expect(clippy::cast_precision_loss, reason = "the counts are small")]

use std::{
    error::Error,
    fs,
    hint::black_box,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use mmu_notifier::{
    LockedSpace, MmapLock, MmapWriteGuard, RmapLock, VmaLock,
    lock::{RawLock, ReverseMap, Vma},
    take_all_locks,
};
use vm_memory::{MmapRegion, VolatileMemory};
use vmm::kvm::{Kvm, Vm};

/// How many mappings, and how often each way is measured with them: making a VM takes 0.6 ms without any, and varies by
/// as much as a few thousand mappings cost.
const CURVE: [(usize, usize); 4] = [(0, 801), (1_000, 801), (10_000, 201), (60_000, 51)];
const PAGE: usize = 4096;

/// An address space that is nothing but its locks: VMAs that each map a thing of their own.
struct Space {
    mmap: MmapLock,
    /// Each an object of its own, as an owner's would be.
    vmas: Vec<Arc<OneVma>>,
}

struct OneVma {
    lock: VmaLock,
    maps: Arc<RmapLock>,
}

impl LockedSpace for Space {
    type Vmas = ();

    fn mmap_lock(&self) -> &MmapLock {
        &self.mmap
    }

    fn vma_locks(
        &self,
        _mmap: &MmapWriteGuard<'_>,
        visit: &mut dyn FnMut(&RawLock<Vma>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.vmas.iter().try_for_each(|vma| visit(vma.lock.raw()))
    }

    fn rmap_locks(
        &self,
        _mmap: &MmapWriteGuard<'_>,
        visit: &mut dyn FnMut(&RawLock<ReverseMap>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.vmas.iter().try_for_each(|vma| visit(vma.maps.raw()))
    }
}

impl Space {
    fn grow(&mut self, mappings: usize) {
        self.vmas.resize_with(mappings, || {
            Arc::new(OneVma { lock: VmaLock::new(()), maps: Arc::new(RmapLock::new(())) })
        });
    }

    fn take_and_release(&self) -> Result<Duration, Box<dyn Error>> {
        let start = Instant::now();
        let mmap = self.mmap.write();
        drop(black_box(take_all_locks(&mmap, self, None)?));
        drop(mmap);
        Ok(start.elapsed())
    }
}

/// So many VMAs, each a page that was touched, with a hole on either side.
///
/// Neighbours that touch would become one VMA, or with different protection two that share an anon_vma.
fn map_pages(mappings: usize) -> Result<Vec<MmapRegion>, Box<dyn Error>> {
    let mut pages = (0..2 * mappings).map(|_| MmapRegion::new(PAGE)).collect::<Result<Vec<_>, _>>()?;
    pages.sort_unstable_by_key(|page: &MmapRegion| page.as_ptr().addr());
    let vmas: Vec<_> = pages.into_iter().step_by(2).collect();
    for page in &vmas {
        page.get_ref::<u8>(0)?.store(1);
    }
    Ok(vmas)
}

fn create_vm(kvm: &Kvm) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    let vm = Vm::create(kvm)?;
    let elapsed = start.elapsed();
    drop(vm);
    Ok(elapsed)
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e9
}

fn main() -> Result<(), Box<dyn Error>> {
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => {
            println!("not measured: {error}");
            return Ok(());
        }
    };
    let mut space = Space { mmap: MmapLock::new(()), vmas: Vec::new() };
    let mut at_none = None;

    println!("medians, in turns; \"a mapping\" is what each added since none\n");
    println!(
        "{:>9} {:>9} {:>17} {:>17} {:>14} {:>14} {:>6}",
        "mappings", "VMAs", "KVM_CREATE_VM µs", "take_all_locks µs", "ns a mapping", "ns a mapping", "ratio"
    );
    for (mappings, rounds) in CURVE {
        let vmas = map_pages(mappings)?;
        space.grow(mappings);
        let vmas_in_all = fs::read_to_string("/proc/self/maps")?.lines().count();
        let (mut kernels, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            kernels.push(create_vm(&kvm)?);
            ours.push(space.take_and_release()?);
        }
        drop(vmas);
        let (kernels, ours) = (median(kernels), median(ours));
        print!("{mappings:>9} {vmas_in_all:>9} {:>17.1} {:>17.1}", kernels / 1e3, ours / 1e3);
        let (kernels_at_none, ours_at_none) = *at_none.get_or_insert((kernels, ours));
        if mappings == 0 {
            println!();
        } else {
            let kernels_each = (kernels - kernels_at_none) / mappings as f64;
            let ours_each = (ours - ours_at_none) / mappings as f64;
            println!(" {kernels_each:>14.1} {ours_each:>14.1} {:>6.1}", kernels_each / ours_each);
        }
    }
    Ok(())
}
