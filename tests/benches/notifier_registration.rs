//! What registering a notifier under all locks costs for each mapping: the kernel's way, and ours.
//!
//! KVM_CREATE_VM registers an mmu notifier, for which the kernel takes every lock of the process's address space. How
//! much slower it gets with each VMA is therefore what the kernel pays for one VMA lock and, where each VMA has memory
//! of its own, one reverse-map lock, taken and released. `take_all_locks` pays for the same. Both are measured in one
//! run and in turns, at several numbers of mappings; the table gives medians, and what each mapping added since none.
//!
//! Needs /dev/kvm, and a vm.max_map_count (65,530 unless somebody changed it) above the largest number of mappings.
#![expect(clippy::cast_precision_loss, reason = "the counts are small")]

use std::{
    error::Error,
    fs::{self, File},
    hint::black_box,
    time::{Duration, Instant},
};

use mmu_notifier::{LockedSpace, take_all_locks, testing::LockedVmas};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};
use vmm::kvm::{Kvm, Vm};

/// How many mappings, and how often each way is measured with them: making a VM takes 0.6 ms without any, and varies by
/// as much as a few thousand mappings cost.
const CURVE: [(usize, usize); 4] = [(0, 801), (1_000, 801), (10_000, 201), (60_000, 51)];
const PAGE: usize = 4096;

type Mapped = Result<Vec<MmapRegion>, Box<dyn Error>>;

/// What the mappings map, in our address space and in this process.
struct Shape {
    name: &'static str,
    ours: fn(usize) -> LockedVmas,
    kernels: fn(usize) -> Mapped,
}

const SHAPES: [Shape; 3] = [
    Shape { name: "own", ours: LockedVmas::own, kernels: map_pages },
    // Where its objects lie is the kernel's affair.
    Shape { name: "scattered", ours: LockedVmas::scattered, kernels: map_pages },
    Shape { name: "shared", ours: LockedVmas::shared, kernels: map_a_file },
];

/// So many VMAs, each a page that was touched, with a hole on either side.
///
/// Neighbours that touch would become one VMA, or with different protection two that share an anon_vma.
fn map_pages(mappings: usize) -> Mapped {
    let mut pages = (0..2 * mappings).map(|_| MmapRegion::new(PAGE)).collect::<Result<Vec<_>, _>>()?;
    pages.sort_unstable_by_key(|page: &MmapRegion| page.as_ptr().addr());
    let vmas: Vec<_> = pages.into_iter().step_by(2).collect();
    for page in &vmas {
        page.get_ref::<u8>(0)?.store(1);
    }
    Ok(vmas)
}

/// So many VMAs that all map the same page of one file; what repeats an offset becomes no part of its neighbour.
fn map_a_file(mappings: usize) -> Mapped {
    let file: File = tempfile::tempfile()?;
    file.set_len(PAGE as u64)?;
    let page = FileOffset::new(file, 0);
    Ok((0..mappings).map(|_| MmapRegion::from_file(page.clone(), PAGE)).collect::<Result<_, _>>()?)
}

fn create_vm(kvm: &Kvm) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    let vm = Vm::create(kvm)?;
    let elapsed = start.elapsed();
    drop(vm);
    Ok(elapsed)
}

fn take_and_release(space: &LockedVmas) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    let mmap = space.mmap_lock().write();
    drop(black_box(take_all_locks(&mmap, space, None)?));
    drop(mmap);
    Ok(start.elapsed())
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
    println!("medians, in turns; \"a mapping\" is what each added since none\n");
    println!(
        "{:<10} {:>9} {:>9} {:>17} {:>17} {:>14} {:>14} {:>6}",
        "VMAs map",
        "mappings",
        "VMAs",
        "KVM_CREATE_VM µs",
        "take_all_locks µs",
        "ns a mapping",
        "ns a mapping",
        "ratio"
    );
    SHAPES.iter().try_for_each(|shape| curve(&kvm, shape))
}

fn curve(kvm: &Kvm, shape: &Shape) -> Result<(), Box<dyn Error>> {
    let mut at_none = None;
    for (mappings, rounds) in CURVE {
        let vmas = (shape.kernels)(mappings)?;
        let space = (shape.ours)(mappings);
        let vmas_in_all = fs::read_to_string("/proc/self/maps")?.lines().count();
        let (mut kernels, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            kernels.push(create_vm(kvm)?);
            ours.push(take_and_release(&space)?);
        }
        drop(vmas);
        let (kernels, ours) = (median(kernels), median(ours));
        let name = shape.name;
        print!("{name:<10} {mappings:>9} {vmas_in_all:>9} {:>17.1} {:>17.1}", kernels / 1e3, ours / 1e3);
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
