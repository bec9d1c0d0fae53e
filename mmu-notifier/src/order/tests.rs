use super::*;
use crate::{MmapLock, RmapLock, VmaLock};

#[test]
fn every_build_knows_whether_a_lock_is_held() {
    let lock = MmapLock::new(());

    assert!(!any_held());
    let guard = lock.read();
    assert!(any_held());
    drop(guard);
    assert!(!any_held());
}

#[test]
fn what_another_thread_holds_is_not_held_here() {
    let lock = MmapLock::new(());
    let _guard = lock.read();

    let held_there = std::thread::scope(|scope| scope.spawn(any_held).join().unwrap());

    assert!(!held_there);
}

#[test]
fn a_lock_that_was_tried_in_vain_is_not_held() {
    let lock = VmaLock::new(());
    let guard = lock.write();

    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(lock.try_read().is_none());
            assert!(!any_held());
        });
    });

    drop(guard);
}

#[test]
fn guards_may_go_in_any_order() {
    let (mmap, vma, rmap) = (MmapLock::new(()), VmaLock::new(()), RmapLock::new(()));
    let outer = mmap.read();
    let middle = vma.read();
    let inner = rmap.read();

    drop(middle);
    drop(outer);
    assert!(any_held());
    drop(inner);

    assert!(!any_held());
}

#[cfg(debug_assertions)]
mod with_checks {
    use super::*;

    /// An owner's own rank, between a VMA lock and a reverse-map lock.
    const FOLIO_LOCK: Rank = Rank::new(4000);

    #[test]
    fn the_whole_tree_may_be_taken_downwards() {
        let (mmap, vma, rmap) = (MmapLock::new(()), VmaLock::new(()), RmapLock::new(()));

        let _mmap = mmap.read();
        let _vma = vma.read();
        let _folio = acquire(FOLIO_LOCK, "folio lock");
        let _rmap = rmap.read();
        let _leaf = acquire(Rank::LEAF, "a pool");
    }

    #[test]
    #[should_panic(
        expected = "lock order inverted: mmap_lock (rank 1000) is taken while VMA lock (rank 3000) is held"
    )]
    fn an_inversion_names_both_locks() {
        let (mmap, vma) = (MmapLock::new(()), VmaLock::new(()));
        let _vma = vma.read();
        let _mmap = mmap.read();
    }

    #[test]
    #[should_panic(expected = "folio lock (rank 4000) is taken while reverse-map lock (rank 5000)")]
    fn an_owners_own_rank_is_part_of_the_order() {
        let rmap = RmapLock::new(());
        let _rmap = rmap.write();
        let _folio = acquire(FOLIO_LOCK, "folio lock");
    }

    #[test]
    #[should_panic(expected = "reverse-map lock (rank 5000) is taken while reverse-map lock (rank 5000)")]
    fn two_locks_of_a_rank_are_an_inversion() {
        let (a, b) = (RmapLock::new(()), RmapLock::new(()));
        let _a = a.write();
        let _b = b.write();
    }

    #[test]
    #[should_panic(expected = "VMA lock (rank 3000) is taken while reverse-map lock")]
    fn the_deepest_lock_counts_not_the_last() {
        let (vma, rmap) = (VmaLock::new(()), RmapLock::new(()));
        let (other, _rmap) = (MmapLock::new(()), rmap.write());
        let _tried = other.try_read().unwrap();
        let _vma = vma.read();
    }

    #[test]
    fn trying_a_lock_cannot_deadlock_and_may_go_upwards() {
        let (a, b) = (VmaLock::new(()), VmaLock::new(()));

        let _a = a.write();

        assert!(b.try_write().is_some());
    }

    #[test]
    fn a_released_lock_is_forgotten() {
        let (mmap, vma) = (MmapLock::new(()), VmaLock::new(()));

        drop(vma.read());

        drop(mmap.read());
    }
}

#[cfg(not(debug_assertions))]
#[test]
fn a_release_build_checks_nothing_and_keeps_nothing() {
    let _rmap = acquire(Rank::REVERSE_MAP_LOCK, "reverse-map lock");
    let _mmap = acquire(Rank::MMAP_LOCK, "mmap_lock");

    assert_eq!(size_of::<Held>(), 0);
}
