//! The tree by example; against a naive model in `history`; with threads in `threads`.

mod all_locks;
mod history;
mod rules;
mod threads;

use std::sync::Arc;

use mmu_notifier::{AddressRange, PAGE_SIZE};

use super::{HugePolicy, ModifyError, VmaChange, VmaFlags, VmaSpec, VmaTree};
use crate::rmap::{Mapping, MmId};

const MM: MmId = MmId::new(7);

/// What a VMA that may be written and no more asks for.
const WRITABLE: VmaFlags =
    VmaFlags { writable: true, dirty_tracked: false, mergeable: false, huge: HugePolicy::Never };

/// `pages` pages from page `start`.
fn range(start: u64, pages: u64) -> AddressRange {
    AddressRange::new(start * PAGE_SIZE, pages * PAGE_SIZE).unwrap()
}

fn tree() -> VmaTree {
    VmaTree::new(MM, u64::MAX)
}

/// `range` shows the part of `mapping` that has the same addresses.
fn spec(range: AddressRange, flags: VmaFlags, mapping: &Arc<Mapping>) -> VmaSpec {
    VmaSpec { range, flags, name: None, mapping: Arc::clone(mapping), offset: range.start() }
}

fn insert(tree: &VmaTree, spec: VmaSpec) {
    tree.insert(&tree.mmap_lock().write(), spec).unwrap();
}

/// Modifies a range of which nothing was ever faulted in.
fn modify(tree: &VmaTree, range: AddressRange, change: &VmaChange) -> Result<(), ModifyError> {
    tree.modify(&tree.mmap_lock().write(), range, change, &|_| None)
}

fn ranges(tree: &VmaTree) -> Vec<AddressRange> {
    tree.snapshot().iter().map(|vma| vma.range).collect()
}
