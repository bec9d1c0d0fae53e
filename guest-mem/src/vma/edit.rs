//! Cutting and merging, without locks: what the VMAs of a stretch are to become.

use std::{ops::Range, sync::Arc};

use mmu_notifier::AddressRange;

use super::{Vma, VmaChange, VmaSpec};

/// Where in `list` the VMAs are that overlap or touch `range`: those that a change of it can cut or merge.
pub(super) fn concerned(list: &[Arc<Vma>], range: AddressRange) -> Range<usize> {
    list.partition_point(|vma| vma.range.end() < range.start())
        ..list.partition_point(|vma| vma.range.start() <= range.end())
}

/// `old` with `change` made in `range`.
pub(super) fn changed(old: &[Arc<Vma>], range: AddressRange, change: &VmaChange) -> Vec<VmaSpec> {
    let cut = old.iter().flat_map(|vma| {
        let [before, behind] = vma.around(range);
        let mut inside = vma.part(range);
        if let Some(inside) = &mut inside {
            inside.apply(change);
        }
        [before, inside, behind]
    });
    cut.flatten().collect()
}

/// `old` without `range`.
pub(super) fn cut_out(old: &[Arc<Vma>], range: AddressRange) -> Vec<VmaSpec> {
    old.iter().flat_map(|vma| vma.around(range)).flatten().collect()
}

/// The first address of `range` that is in no VMA of `list`.
pub(super) fn hole(list: &[Arc<Vma>], range: AddressRange) -> Option<u64> {
    let covered =
        list.iter().fold(
            range.start(),
            |covered, vma| {
                if vma.range.contains(covered) { vma.range.end() } else { covered }
            },
        );
    (covered < range.end()).then_some(covered)
}

/// VMAs for `specs`, which are in address order: neighbours become one where they can, and a VMA of `old` that is
/// already right is kept.
pub(super) fn rebuilt(old: &[Arc<Vma>], specs: Vec<VmaSpec>) -> Vec<Arc<Vma>> {
    let mut merged: Vec<VmaSpec> = Vec::with_capacity(specs.len());
    for spec in specs {
        match merged.last_mut() {
            Some(last) if last.merges_with(&spec) => last.range = last.range.hull(spec.range),
            _ => merged.push(spec),
        }
    }
    let vma = |spec: VmaSpec| match starting_at(old, spec.range.start()) {
        Some(old) if old.equals(&spec) => Arc::clone(old),
        _ => Arc::new(Vma::new(spec)),
    };
    merged.into_iter().map(vma).collect()
}

/// The VMAs of `old` that are not in `new`.
pub(super) fn outgoing<'a>(old: &'a [Arc<Vma>], new: &'a [Arc<Vma>]) -> impl Iterator<Item = &'a Arc<Vma>> {
    let kept = |vma: &Arc<Vma>| starting_at(new, vma.range.start()).is_some_and(|new| Arc::ptr_eq(new, vma));
    old.iter().filter(move |vma| !kept(vma))
}

fn starting_at(list: &[Arc<Vma>], start: u64) -> Option<&Arc<Vma>> {
    let at = list.binary_search_by_key(&start, |vma| vma.range.start()).ok()?;
    list.get(at)
}
