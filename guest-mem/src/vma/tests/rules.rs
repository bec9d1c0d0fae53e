//! What each operation does and refuses, one by one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::vma::{InsertError, LookedUp, OverCommit};

/// The case that commit accounting must not spoil: a middle part becomes writable and unwritable again.
#[test]
fn unfaulted_memory_made_unwritable_gives_its_charge_back_and_merges() {
    let tree = tree();
    let read_only = VmaFlags { writable: false, ..WRITABLE };
    insert(&tree, spec(range(0, 9), read_only, &Arc::default()));

    modify(&tree, range(3, 3), &VmaChange::Writable(true)).unwrap();
    assert_eq!(ranges(&tree), [range(0, 3), range(3, 3), range(6, 3)]);
    assert_eq!(tree.committed(), 3);

    modify(&tree, range(3, 3), &VmaChange::Writable(false)).unwrap();
    assert_eq!(ranges(&tree), [range(0, 9)]);
    assert_eq!(tree.committed(), 0);
}

#[test]
fn faulted_memory_made_unwritable_keeps_its_charge_and_is_not_charged_twice() {
    let tree = tree();
    insert(&tree, spec(range(0, 8), WRITABLE, &Arc::default()));
    let faulted = |asked: AddressRange| range(2, 3).intersection(asked);

    tree.modify(&tree.mmap_lock().write(), range(0, 8), &VmaChange::Writable(false), &faulted).unwrap();
    assert_eq!(tree.committed(), 3);

    modify(&tree, range(4, 4), &VmaChange::Writable(true)).unwrap();
    assert_eq!(tree.committed(), 6);

    drop(tree.remove(&tree.mmap_lock().write(), range(0, 8)));
    assert_eq!(tree.committed(), 0);
}

#[test]
fn more_than_the_limit_is_refused_and_nothing_changes() {
    let tree = VmaTree::new(MM, 10);
    let read_only = VmaFlags { writable: false, ..WRITABLE };
    insert(&tree, spec(range(0, 8), WRITABLE, &Arc::default()));
    insert(&tree, spec(range(20, 8), read_only, &Arc::default()));
    let over = OverCommit { wanted: 3, committed: 8, limit: 10 };

    let inserted = tree.insert(&tree.mmap_lock().write(), spec(range(10, 3), WRITABLE, &Arc::default()));
    let modified = modify(&tree, range(20, 3), &VmaChange::Writable(true));

    assert_eq!(inserted, Err(InsertError::OverCommit(over)));
    assert_eq!(modified, Err(ModifyError::OverCommit(over)));
    assert_eq!(ranges(&tree), [range(0, 8), range(20, 8)]);
    assert_eq!((tree.committed(), tree.commit_limit()), (8, 10));
}

#[test]
fn each_bad_input_has_its_own_error() {
    let (tree, mapping) = (tree(), Arc::default());
    insert(&tree, spec(range(4, 4), WRITABLE, &mapping));
    let at_offset = |offset| VmaSpec { offset, ..spec(range(20, 4), WRITABLE, &mapping) };
    let refused = |spec| tree.insert(&tree.mmap_lock().write(), spec).unwrap_err();

    let overlap = InsertError::Overlap { range: range(7, 2), with: range(4, 4) };
    assert_eq!(refused(spec(range(7, 2), WRITABLE, &mapping)), overlap);
    for offset in [1, u64::MAX - 4095] {
        assert_eq!(refused(at_offset(offset)), InsertError::Offset { range: range(20, 4), offset });
    }
    let hole = ModifyError::Hole { range: range(6, 4), at: 8 * PAGE_SIZE };
    assert_eq!(modify(&tree, range(6, 4), &VmaChange::Mergeable(true)), Err(hole));
    assert_eq!(mapping.windows().iter().count(), 1, "what was refused is not in the reverse map");
}

#[test]
fn neighbours_in_another_mapping_or_at_another_offset_stay_apart() {
    let (tree, mapping) = (tree(), Arc::default());
    insert(&tree, spec(range(0, 2), WRITABLE, &mapping));
    insert(&tree, spec(range(2, 2), WRITABLE, &Arc::default()));
    insert(&tree, spec(range(4, 2), WRITABLE, &mapping));
    insert(&tree, VmaSpec { offset: 0, ..spec(range(6, 2), WRITABLE, &mapping) });

    assert_eq!(ranges(&tree), [range(0, 2), range(2, 2), range(4, 2), range(6, 2)]);
}

#[test]
fn names_keep_vmas_apart_until_they_are_equal() {
    let tree = tree();
    insert(&tree, spec(range(0, 6), WRITABLE, &Arc::default()));
    let name = |name: &str| VmaChange::Name(Some(name.into()));

    modify(&tree, range(0, 3), &name("heap")).unwrap();
    assert_eq!(ranges(&tree), [range(0, 3), range(3, 3)]);

    modify(&tree, range(3, 3), &name("heap")).unwrap();
    assert_eq!(ranges(&tree), [range(0, 6)]);
}

#[test]
fn a_vma_that_asks_for_it_already_is_left_alone() {
    let tree = tree();
    insert(&tree, spec(range(0, 6), WRITABLE, &Arc::default()));
    let before = tree.snapshot();

    modify(&tree, range(1, 2), &VmaChange::Writable(true)).unwrap();

    assert!(matches!(before.lock(PAGE_SIZE), LookedUp::Locked(_)));
}

#[test]
fn a_fault_with_an_old_snapshot_finds_its_vma_detached() {
    let tree = tree();
    insert(&tree, spec(range(0, 6), WRITABLE, &Arc::default()));
    let old = tree.snapshot();

    modify(&tree, range(2, 1), &VmaChange::Huge(HugePolicy::Always)).unwrap();

    assert!(matches!(old.lock(0), LookedUp::Detached));
    assert!(matches!(old.lock(6 * PAGE_SIZE), LookedUp::None));
    let mmap = tree.mmap_lock().read();
    let stable = tree.under(&mmap);
    assert_eq!(stable.lock(2 * PAGE_SIZE).unwrap().flags.huge, HugePolicy::Always);
}

#[test]
fn a_fault_that_comes_while_all_is_locked_is_contended() {
    let tree = tree();
    insert(&tree, spec(range(0, 6), WRITABLE, &Arc::default()));
    let vmas = tree.snapshot();

    let locked = vmas.find(0).unwrap().lock.write();
    assert!(matches!(vmas.lock(0), LookedUp::Contended));

    drop(locked);
    let LookedUp::Locked(vma) = vmas.lock(3 * PAGE_SIZE) else { panic!("left locked") };
    assert_eq!(vma.offset_of(3 * PAGE_SIZE), 3 * PAGE_SIZE);
}

/// Its entries are to be zapped first, and a walker must find them until then.
#[test]
fn what_was_removed_is_in_the_reverse_map_until_it_was_zapped() {
    let (tree, mapping) = (tree(), Arc::default());
    insert(&tree, spec(range(0, 6), WRITABLE, &mapping));
    let finds = || mapping.windows().showing(range(2, 2)).count();

    let mmap = tree.mmap_lock().write();
    let removed = tree.remove(&mmap, range(2, 2));

    assert_eq!(
        removed.parts().iter().map(|part| (part.range, part.offset)).collect::<Vec<_>>(),
        [(range(2, 2), 2 * PAGE_SIZE)]
    );
    assert!(tree.snapshot().find(2 * PAGE_SIZE).is_none());
    assert_eq!(finds(), 1);
    drop(removed);
    assert_eq!(finds(), 0);
    assert_eq!(mapping.windows().showing(range(0, 6)).count(), 2);
}

#[test]
fn the_reverse_map_forgets_a_tree_that_is_dropped() {
    let mapping = Arc::default();
    let (first, second) = (VmaTree::new(MmId::new(1), 10), VmaTree::new(MmId::new(2), 10));
    insert(&first, spec(range(0, 6), WRITABLE, &mapping));
    insert(&second, spec(range(0, 6), WRITABLE, &mapping));

    drop(first);

    assert_eq!(mapping.windows().iter().map(|window| window.mm).collect::<Vec<_>>(), [MmId::new(2)]);
}

#[test]
fn a_panic_of_the_callers_while_modifying_changes_nothing_for_faults() {
    let tree = tree();
    insert(&tree, spec(range(0, 6), WRITABLE, &Arc::default()));
    let all = range(0, 6);
    let panics = |_| panic!("the page table");

    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mmap = tree.mmap_lock().write();
        tree.modify(&mmap, all, &VmaChange::Writable(false), &panics)
    }));

    assert!(outcome.is_err());
    assert_eq!(tree.committed(), 6);
    let mmap = tree.mmap_lock().read();
    assert!(tree.under(&mmap).lock(0).unwrap().flags.writable);
    drop(mmap);
    modify(&tree, all, &VmaChange::Writable(false)).unwrap();
    assert!(matches!(tree.snapshot().lock(0), LookedUp::Locked(_)), "and the next change heals it");
}

#[test]
#[should_panic(expected = "the mmap_lock held is another address space's")]
fn the_mmap_lock_of_another_tree_is_refused() {
    let (tree, other) = (tree(), tree());

    drop(tree.remove(&other.mmap_lock().write(), range(0, 1)));
}
