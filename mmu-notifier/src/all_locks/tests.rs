use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    ptr, thread,
    time::Duration,
};

use proptest::prelude::*;

use super::{
    LockedSpace,
    mischief::{Mischief, Mischievous},
    take_all_locks,
};
use crate::{
    InterruptToken, Interrupted, RmapLock, order,
    sync::Arc,
    testing::{LockedVma, LockedVmas},
};

fn mappings(count: usize) -> Vec<Arc<RmapLock>> {
    (0..count).map(|_| Arc::new(RmapLock::new(()))).collect()
}

/// VMAs that map some of `pool`, each up to two by their numbers.
fn space_of(pool: &[Arc<RmapLock>], vmas: &[Vec<usize>]) -> LockedVmas {
    let map = |number: &usize| Arc::clone(&pool[*number]);
    let vma = |maps: &Vec<usize>| LockedVma {
        file: maps.first().map(map),
        anon: maps.get(1).map(map),
        ..LockedVma::default()
    };
    vmas.iter().map(vma).collect()
}

/// What each walk shows, in order, by address.
fn shown_in_order(space: &LockedVmas) -> Vec<usize> {
    let vmas = space.vmas().iter().map(|vma| ptr::from_ref(&vma.lock).addr());
    let maps = space.vmas().iter().flat_map(|vma| vma.maps());
    vmas.chain(maps.map(|map| Arc::as_ptr(map).addr())).collect()
}

fn distinct(mut locks: Vec<usize>) -> usize {
    locks.sort_unstable();
    locks.dedup();
    locks.len()
}

fn any_vmas() -> impl Strategy<Value = Vec<Vec<usize>>> {
    let most = if cfg!(miri) { 4 } else { 12 };
    proptest::collection::vec(proptest::collection::vec(0_usize..5, 0..3), 0..most)
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 128 },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_lock_is_taken_once_and_free_afterwards(vmas in any_vmas()) {
        let space = space_of(&mappings(5), &vmas);
        {
            let mmap = space.mmap_lock().write();
            let all = take_all_locks(&mmap, &space, None).unwrap();

            prop_assert_eq!(all.locks(), distinct(shown_in_order(&space)));
            for vma in space.vmas() {
                prop_assert!(vma.lock.try_read().is_none());
                prop_assert!(vma.maps().all(|map| map.try_read().is_none()));
            }
        }
        prop_assert!(space.is_free());
        prop_assert!(!order::any_held());
    }

    #[test]
    fn an_interruption_at_any_step_leaves_every_lock_free(vmas in any_vmas()) {
        let pool = mappings(5);
        for step in 0..shown_in_order(&space_of(&pool, &vmas)).len() {
            let token = InterruptToken::new();
            let space = space_of(&pool, &vmas);
            let interrupted = Mischievous::new(&space, step, Mischief::Interrupt(&token));
            {
                let mmap = space.mmap_lock().write();
                let result = take_all_locks(&mmap, &interrupted, Some(&token)).map(|all| all.locks());

                // Once it has every lock, what is shown again is not waited for, and the token not looked at.
                let shown = shown_in_order(&space);
                let all = distinct(shown.clone());
                let before = distinct(shown[..step].to_vec());
                prop_assert_eq!(result, if before < all { Err(Interrupted) } else { Ok(all) });
            }
            prop_assert!(space.is_free());
        }
    }

    #[test]
    fn a_walk_that_does_not_stop_when_told_to_does_no_harm(vmas in any_vmas(), step in 0_usize..20) {
        let token = InterruptToken::new();
        let space = space_of(&mappings(5), &vmas);
        let unstoppable = Mischievous::new(&space, step, Mischief::InterruptAndGoOn(&token));

        drop(take_all_locks(&space.mmap_lock().write(), &unstoppable, Some(&token)));

        prop_assert!(space.is_free());
    }

    #[test]
    fn a_walk_that_panics_leaves_every_lock_free(vmas in any_vmas(), step in 0_usize..20) {
        let space = space_of(&mappings(5), &vmas);
        let shown = shown_in_order(&space).len();
        let panicking = Mischievous::new(&space, step % shown.max(1), Mischief::Panic);

        let result = catch_unwind(AssertUnwindSafe(|| {
            drop(take_all_locks(&space.mmap_lock().write(), &panicking, None));
        }));

        prop_assert_eq!(result.is_err(), shown > 0);
        prop_assert!(space.is_free());
        prop_assert!(!order::any_held());
    }
}

#[test]
fn a_token_set_before_the_first_lock_takes_nothing() {
    let space = space_of(&mappings(1), &[]);
    let token = InterruptToken::new();
    token.interrupt();

    let mmap = space.mmap_lock().write();
    let result = take_all_locks(&mmap, &space, Some(&token)).map(|all| all.locks());

    assert_eq!(result, Err(Interrupted));
}

#[test]
fn a_taker_that_sleeps_for_a_lock_can_be_interrupted_and_does_not_release_it() {
    let pool = mappings(2);
    let space = space_of(&pool, &[vec![0], vec![1]]);
    let token = InterruptToken::new();
    let busy = pool[1].write();

    let result = thread::scope(|scope| {
        let taker = scope.spawn(|| {
            let mmap = space.mmap_lock().write();
            take_all_locks(&mmap, &space, Some(&token)).map(|all| all.locks())
        });
        thread::sleep(Duration::from_millis(5));
        token.interrupt();
        taker.join().unwrap()
    });

    assert_eq!(result, Err(Interrupted));
    assert!(pool[1].try_read().is_none(), "still ours");
    drop(busy);
    assert!(space.is_free());
}

#[test]
fn a_taker_waits_for_a_fault_that_holds_only_its_vma_lock() {
    let space = space_of(&mappings(1), &[vec![0]]);
    let fault = space.vmas()[0].lock.read();

    let locks = thread::scope(|scope| {
        let taker = scope.spawn(|| {
            let mmap = space.mmap_lock().write();
            take_all_locks(&mmap, &space, None).map(|all| all.locks())
        });
        thread::sleep(Duration::from_millis(5));
        assert!(!taker.is_finished());
        drop(fault);
        taker.join().unwrap()
    });

    assert_eq!(locks, Ok(2));
}

/// Owners that map the same things in different orders, while others use single locks.
#[test]
fn takers_that_share_mappings_and_users_of_single_locks_get_along() {
    let rounds = if cfg!(miri) { 5 } else { 500 };
    let pool = mappings(4);
    let spaces = [
        space_of(&pool, &[vec![0, 1], vec![2], vec![3, 0]]),
        space_of(&pool, &[vec![3, 2], vec![1], vec![0, 3]]),
    ];

    thread::scope(|scope| {
        for space in &spaces {
            scope.spawn(|| {
                for _ in 0..rounds {
                    let mmap = space.mmap_lock().write();
                    assert_eq!(take_all_locks(&mmap, space, None).unwrap().locks(), 7);
                }
            });
            scope.spawn(|| {
                for round in 0..rounds {
                    let _vma = space.vmas()[round % 3].lock.read();
                    drop(pool[round % 4].write());
                }
            });
        }
    });

    assert!(spaces.iter().all(LockedVmas::is_free));
}

#[test]
#[should_panic(expected = "the mmap_lock held is another address space's")]
fn the_guard_of_another_address_space_is_refused() {
    let (space, other) = (LockedVmas::default(), LockedVmas::default());
    let mmap = other.mmap_lock().write();

    drop(take_all_locks(&mmap, &space, None));
}

/// The walk shows four locks for taking, and then none.
#[test]
fn a_walk_that_forgets_locks_is_told_how_many() {
    let space = space_of(&mappings(2), &[vec![0], vec![1]]);
    let forgetful = Mischievous::new(&space, 4, Mischief::ShowNothing);

    let panicked = catch_unwind(AssertUnwindSafe(|| {
        drop(take_all_locks(&space.mmap_lock().write(), &forgetful, None));
    }))
    .unwrap_err();

    let message = panicked.downcast_ref::<String>().unwrap();
    assert!(message.starts_with("the owner showed 4 locks to take"), "{message}");
    assert!(space.vmas()[0].lock.try_read().is_none(), "stays locked");
    // A later taker, whose walk is right, heals it.
    drop(take_all_locks(&space.mmap_lock().write(), &space, None));
    assert!(space.is_free());
}

#[cfg(debug_assertions)]
#[test]
#[should_panic(expected = "all_locks (rank 2000) is taken while VMA lock (rank 3000) is held")]
fn a_taker_that_holds_a_vma_lock_is_an_inversion() {
    let space = space_of(&mappings(1), &[vec![0]]);
    let mmap = space.mmap_lock().write();
    let _vma = space.vmas()[0].lock.write();

    drop(take_all_locks(&mmap, &space, None));
}
