//! VMAs: what the owner of an address space asked for, range by range.
//!
//! A [`Vma`] never changes but for one bit: whether it is still attached to its [`VmaTree`]. Whatever is asked for
//! later makes new VMAs, and the old ones are detached. So a fault needs no mmap_lock: it takes the tree's current
//! [`Vmas`], finds the one for its address, and tries that one's lock for reading ([`Vmas::lock`]). While it holds it,
//! what it reads is what was asked for. This is Linux's fault under the per-VMA lock; the VMAs are found in a snapshot
//! instead of a tree that is walked under RCU.
//!
//! ```text
//! fault                                  change, under mmap_lock held for writing
//! vmas = the current snapshot            for each VMA that goes: lock for writing, mark detached, unlock
//! find the VMA in it, try its lock       what depends on no fault being under way in these
//! look whether it is still attached      publish the new snapshot
//! ... resolve ...
//! unlock
//! ```
//!
//! Either the fault locks first, and the change waits for it, or it finds the mark and starts over under mmap_lock. As
//! the old VMAs are detached before the new ones can be found, no two faults act on different answers for one page.

mod commit;
mod edit;
mod page_set;
mod published;
mod snapshot;
mod spec;
mod tree;

#[cfg(all(test, loom))]
mod models;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

use std::ops::Deref;

use mmu_notifier::VmaLock;

pub use commit::OverCommit;
pub(crate) use page_set::PageSet;
pub use snapshot::{LockedVma, LookedUp, StableVmas, Vmas};
pub use spec::{HugePolicy, VmaChange, VmaFlags, VmaSpec};
pub use tree::{InsertError, ModifyError, Removed, VmaTree};

/// A range of an address space in which everything is asked for alike: a [`VmaSpec`] with a lock.
#[derive(Debug)]
pub struct Vma {
    spec: VmaSpec,
    /// Under mmap_lock and all_locks, above the folio lock. Held for reading by a fault, for writing to detach.
    lock: VmaLock<Attachment>,
}

/// Whether a VMA is what its tree says of its range; read and written under the VMA's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// It is in the tree.
    Attached,
    /// It was replaced or removed. This is final.
    Detached,
}

impl Vma {
    fn new(spec: VmaSpec) -> Self {
        Self { spec, lock: VmaLock::new(Attachment::Attached) }
    }

    /// Waits until no fault is under way in it, and lets none begin.
    fn detach(&self) {
        *self.lock.write() = Attachment::Detached;
    }
}

impl Deref for Vma {
    type Target = VmaSpec;

    fn deref(&self) -> &VmaSpec {
        &self.spec
    }
}
