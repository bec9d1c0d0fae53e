//! loom models of faults against changes of the tree: 2 pages; 2 threads with 3 forced switches, or 3 threads with 2.
//!
//! The list of VMAs is published by a release store and found by acquire loads that may be late.
#![expect(
    clippy::arc_with_non_send_sync,
    clippy::unwrap_used,
    reason = "loom runs its threads on one, and a helper that cannot go on fails its model"
)]

// Not loom's: its destructor panics when loom unwinds the threads of a model that failed.
use std::sync::Arc;

use mmu_notifier::{
    AddressRange, PAGE_SIZE,
    sync::{cell::UnsafeCell, thread},
};

use super::{HugePolicy, LockedVma, LookedUp, VmaChange, VmaFlags, VmaSpec, VmaTree};
use crate::{
    models::explore,
    planted::Bug,
    rmap::{Mapping, MmId},
};

/// Two pages in one writable VMA, and memory that whoever finds them writable may use, and whoever finds or made them
/// otherwise may have alone: loom watches.
struct Space {
    tree: VmaTree,
    memory: UnsafeCell<()>,
}

impl Space {
    fn new() -> Arc<Self> {
        let tree = VmaTree::new(MmId::new(1), 2);
        let range = AddressRange::new(0, 2 * PAGE_SIZE).unwrap();
        let flags =
            VmaFlags { writable: true, dirty_tracked: false, mergeable: false, huge: HugePolicy::Never };
        let spec = VmaSpec { range, flags, name: None, mapping: Arc::new(Mapping::new()), offset: 0 };
        tree.insert(&tree.mmap_lock().write(), spec).unwrap();
        Arc::new(Self { tree, memory: UnsafeCell::new(()) })
    }

    /// A fault in the second page: by the VMA lock alone, else under mmap_lock.
    fn fault(&self, resolve: impl Fn(Option<&LockedVma<'_>>)) {
        let vmas = self.tree.snapshot();
        match vmas.lock(PAGE_SIZE) {
            LookedUp::Locked(vma) => return resolve(Some(&vma)),
            LookedUp::None => return resolve(None),
            LookedUp::Contended | LookedUp::Detached => {}
        }
        let mmap = self.tree.mmap_lock().read();
        let stable = self.tree.under(&mmap);
        resolve(stable.lock(PAGE_SIZE).as_ref());
    }

    /// A fault that uses the memory if it may be written.
    fn write(&self) {
        self.fault(|vma| {
            if vma.is_some_and(|vma| vma.flags.writable) {
                self.memory.with(|_| ());
            }
        });
    }

    /// A fault that has the memory alone if it may not be written.
    fn have_unwritable(&self) {
        self.fault(|vma| {
            if vma.is_some_and(|vma| !vma.flags.writable) {
                self.have();
            }
        });
    }

    fn have(&self) {
        self.memory.with_mut(|_| ());
    }
}

fn second_page() -> AddressRange {
    AddressRange::new(PAGE_SIZE, PAGE_SIZE).unwrap()
}

fn protect(space: &Space) {
    let mmap = space.tree.mmap_lock().write();
    space.tree.modify(&mmap, second_page(), &VmaChange::Writable(false), &|_| None).unwrap();
}

/// The second page is split off and made unwritable while it is faulted in.
fn a_fault_and_a_split(planted: Option<Bug>) {
    explore(3, planted, || {
        let space = Space::new();
        let fault = thread::spawn({
            let space = Arc::clone(&space);
            move || space.write()
        });
        protect(&space);
        space.have();
        fault.join().unwrap();
        assert_eq!((space.tree.committed(), space.tree.snapshot().iter().len()), (1, 2));
    });
}

#[test]
fn a_fault_that_found_the_old_vma_notices() {
    a_fault_and_a_split(None);
}

#[test]
#[should_panic(expected = "Concurrent read and write accesses")]
fn planted_ignoring_the_mark_is_caught() {
    a_fault_and_a_split(Some(Bug::IgnoreDetached));
}

#[test]
#[should_panic(expected = "Concurrent read and write accesses")]
fn planted_staying_attached_is_caught() {
    a_fault_and_a_split(Some(Bug::StayAttached));
}

/// The second page is removed while it is faulted in.
fn a_fault_and_a_removal(planted: Option<Bug>) {
    explore(3, planted, || {
        let space = Space::new();
        let fault = thread::spawn({
            let space = Arc::clone(&space);
            move || space.write()
        });
        {
            let mmap = space.tree.mmap_lock().write();
            let removed = space.tree.remove(&mmap, second_page());
            space.have();
            drop(removed);
        }
        fault.join().unwrap();
    });
}

#[test]
fn no_fault_is_under_way_in_what_was_removed() {
    a_fault_and_a_removal(None);
}

#[test]
#[should_panic(expected = "Concurrent read and write accesses")]
fn planted_staying_attached_is_caught_by_a_removal() {
    a_fault_and_a_removal(Some(Bug::StayAttached));
}

/// Two faults, one of which may find the new VMA while the other still holds the old one.
fn two_faults_and_a_split(planted: Option<Bug>) {
    explore(2, planted, || {
        let space = Space::new();
        let old = thread::spawn({
            let space = Arc::clone(&space);
            move || space.write()
        });
        let new = thread::spawn({
            let space = Arc::clone(&space);
            move || space.have_unwritable()
        });
        protect(&space);
        old.join().unwrap();
        new.join().unwrap();
    });
}

#[test]
fn no_two_faults_act_on_different_answers() {
    two_faults_and_a_split(None);
}

#[test]
#[should_panic(expected = "Concurrent read and write accesses")]
fn planted_publishing_first_is_caught() {
    two_faults_and_a_split(Some(Bug::PublishFirst));
}
