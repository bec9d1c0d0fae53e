//! A tree whose every lock is taken.

use mmu_notifier::take_all_locks;

use super::*;
use crate::vma::LookedUp;

#[test]
fn a_thousand_vmas_that_share_three_mappings_are_a_thousand_and_three_locks() {
    let tree = tree();
    let mappings: [Arc<Mapping>; 3] = Default::default();
    for page in 0..1000 {
        insert(&tree, spec(range(page, 1), WRITABLE, &mappings[usize::try_from(page).unwrap() % 3]));
    }
    let contended = |page: u64| matches!(tree.snapshot().lock(page * PAGE_SIZE), LookedUp::Contended);
    let mmap = tree.mmap_lock().write();

    let all = take_all_locks(&mmap, &tree, None).unwrap();

    assert_eq!(all.locks(), 1003);
    assert!((0..1000).all(contended));
    assert!(mappings.iter().all(|mapping| mapping.lock().try_read().is_none()));
    drop(all);
    assert!(!(0..1000).any(contended));
    assert!(mappings.iter().all(|mapping| mapping.lock().try_write().is_some()));
}

#[test]
fn a_mapping_that_two_trees_share_is_taken_for_either() {
    let (one, two) = (VmaTree::new(MmId::new(1), 10), VmaTree::new(MmId::new(2), 10));
    let mapping = Arc::default();
    insert(&one, spec(range(0, 1), WRITABLE, &mapping));
    insert(&two, spec(range(5, 1), WRITABLE, &mapping));

    for tree in [&one, &two] {
        assert_eq!(take_all_locks(&tree.mmap_lock().write(), tree, None).unwrap().locks(), 2);
    }
    assert_eq!(mapping.windows().showing(range(0, 1)).count(), 1);
}
