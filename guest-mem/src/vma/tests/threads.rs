//! Faults that look VMAs up and lock them, while others change the tree.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
};

use super::*;
use crate::vma::{LockedVma, LookedUp};

const PAGES: u64 = 64;
/// Some page is about to change: the faults may find either.
const CHANGING: u64 = u64::MAX;

/// What every page's VMA must say. The writer stores [`CHANGING`] before it changes the tree and the truth behind that.
struct Truth(Vec<AtomicU64>);

impl Truth {
    fn of(&self, address: u64) -> u64 {
        self.0[usize::try_from(address / PAGE_SIZE).unwrap()].load(SeqCst)
    }

    fn set(&self, range: AddressRange, truth: impl Fn(u64) -> u64) {
        for (page, slot) in (0..).zip(&self.0) {
            if range.contains(page * PAGE_SIZE) {
                slot.store(truth(page), SeqCst);
            }
        }
    }
}

fn says(vma: &VmaSpec) -> u64 {
    u64::from(vma.flags.writable)
        | u64::from(vma.flags.mergeable) << 1
        | u64::from(vma.flags.dirty_tracked) << 2
}

/// The VMA is locked: it must be the right one, and stay it.
fn check(tree: &VmaTree, truth: &Truth, vma: &LockedVma<'_>, address: u64) {
    assert!(vma.range.contains(address));
    let now = tree.snapshot();
    assert!(now.find(address).is_some_and(|found| Arc::ptr_eq(found, vma.vma())), "a detached VMA is locked");
    let truth = truth.of(address);
    assert!(truth == CHANGING || truth == says(vma), "{truth} and not {} at {address:#x}", says(vma));
}

/// A small generator of numbers: the test needs variety, not quality.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

#[test]
fn no_fault_holds_a_detached_vma_or_one_of_another_time() {
    let rounds = if cfg!(miri) { 20 } else { 3000 };
    let (tree, truth) = (tree(), Truth((0..PAGES).map(|_| AtomicU64::new(1)).collect()));
    insert(&tree, spec(range(0, PAGES), WRITABLE, &Arc::default()));
    let (stop, start) = (AtomicBool::new(false), Barrier::new(4));
    let fast = AtomicU64::new(0);

    thread::scope(|scope| {
        let faults: [_; 3] = std::array::from_fn(|thread| {
            let (tree, truth, stop, start, fast) = (&tree, &truth, &stop, &start, &fast);
            scope.spawn(move || {
                let mut state = thread as u64;
                start.wait();
                while !stop.load(SeqCst) {
                    let address = next(&mut state) % PAGES * PAGE_SIZE + 8;
                    let vmas = tree.snapshot();
                    match vmas.lock(address) {
                        LookedUp::Locked(vma) => {
                            fast.fetch_add(1, SeqCst);
                            check(tree, truth, &vma, address);
                        }
                        LookedUp::Contended | LookedUp::Detached => {
                            let mmap = tree.mmap_lock().read();
                            let stable = tree.under(&mmap);
                            check(tree, truth, &stable.lock(address).unwrap(), address);
                        }
                        LookedUp::None => panic!("there always is one at {address:#x}"),
                    }
                }
            })
        });
        let mut state = 99;
        start.wait();
        for _ in 0..rounds {
            let first = next(&mut state) % PAGES;
            let changed = range(first, 1 + next(&mut state) % (PAGES - first));
            let (bit, on) = (next(&mut state) % 3, next(&mut state) % 2);
            let change = match bit {
                0 => VmaChange::Writable(on == 1),
                1 => VmaChange::Mergeable(on == 1),
                _ => VmaChange::DirtyTracked(on == 1),
            };
            let mmap = tree.mmap_lock().write();
            let before: Vec<_> = (0..PAGES).map(|page| truth.of(page * PAGE_SIZE)).collect();
            truth.set(changed, |_| CHANGING);
            tree.modify(&mmap, changed, &change, &|_| None).unwrap();
            truth.set(changed, |page| before[usize::try_from(page).unwrap()] & !(1 << bit) | on << bit);
        }
        stop.store(true, SeqCst);
        // One by one: ThreadSanitizer does not see how a scope waits for its threads.
        for fault in faults {
            fault.join().unwrap();
        }
    });

    assert!(fast.into_inner() > 0, "some faults needed no mmap_lock");
}
