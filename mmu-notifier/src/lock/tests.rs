use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use super::{Mmap, MmapLock, RawLock, RmapLock, VmaLock};
use crate::{InterruptToken, Interrupted};

/// How often a thread of a stress test goes round.
const ROUNDS: usize = if cfg!(miri) { 20 } else { 5_000 };

/// Sleeps until `thread` is likely asleep in the queue of a lock; nothing depends on whether it is.
fn let_it_sleep() {
    thread::sleep(Duration::from_millis(5));
}

#[test]
fn a_lock_is_small() {
    assert_eq!(size_of::<RawLock<Mmap>>(), 24);
    assert_eq!(size_of::<VmaLock>(), 24);
}

#[test]
fn readers_share_and_writers_do_not() {
    let lock = VmaLock::new(1);

    let first = lock.try_read().unwrap();
    let second = lock.try_read().unwrap();
    assert!(lock.try_write().is_none());
    drop((first, second));
    let mut writer = lock.try_write().unwrap();
    assert!(lock.try_read().is_none());
    assert!(lock.try_write().is_none());
    *writer = 2;
    drop(writer);

    assert_eq!(*lock.read(), 2);
    assert_eq!(lock.into_inner(), 2);
}

#[test]
fn a_guard_knows_its_lock() {
    let (a, b) = (MmapLock::new(()), MmapLock::new(()));

    assert!(a.write().is_of(&a));
    assert!(!a.write().is_of(&b));
    assert!(a.read().is_of(&a));
    assert!(!a.read().is_of(&b));
}

#[test]
fn what_a_lock_says_of_itself() {
    let lock = RmapLock::new(());

    assert_eq!(format!("{lock:?}"), "reverse-map lock free");
    let reader = lock.read();
    assert_eq!(format!("{lock:?}"), "reverse-map lock held by 1 readers");
    drop(reader);
    let _writer = lock.write();
    assert_eq!(format!("{lock:?}"), "reverse-map lock held for writing");
}

/// Two words that writers keep equal, with more threads than CPUs.
#[test]
fn readers_never_see_half_of_a_write() {
    let lock = RmapLock::new((0, 0));
    let together = Barrier::new(4);

    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                together.wait();
                for _ in 0..ROUNDS {
                    let mut pair = lock.write();
                    pair.0 += 1;
                    pair.1 += 1;
                }
            });
            scope.spawn(|| {
                together.wait();
                for _ in 0..ROUNDS {
                    let pair = lock.read();
                    assert_eq!(pair.0, pair.1);
                }
            });
        }
    });

    assert_eq!(*lock.read(), (2 * ROUNDS, 2 * ROUNDS));
}

#[test]
fn a_waiting_writer_keeps_new_readers_out() {
    let lock = VmaLock::new(());
    let reader = lock.read();

    thread::scope(|scope| {
        scope.spawn(|| drop(lock.write()));
        while lock.try_read().is_some() {
            thread::yield_now();
        }
        drop(reader);
    });

    assert!(lock.try_read().is_some());
}

/// Readers overlap all the time; a lock that prefers them would never let the writer in.
#[test]
fn overlapping_readers_do_not_starve_a_writer() {
    let lock = VmaLock::new(());
    let written = AtomicBool::new(false);

    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !written.load(Relaxed) {
                    let _guard = lock.read();
                    thread::yield_now();
                }
            });
        }
        drop(lock.write());
        written.store(true, Relaxed);
    });

    assert!(lock.try_write().is_some());
}

/// Writers overlap all the time; a lock that prefers them would never let the reader in.
#[test]
fn overlapping_writers_do_not_starve_a_reader() {
    let lock = VmaLock::new(());
    let read = AtomicBool::new(false);

    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !read.load(Relaxed) {
                    let _guard = lock.write();
                    thread::yield_now();
                }
            });
        }
        drop(lock.read());
        read.store(true, Relaxed);
    });

    assert!(lock.try_write().is_some());
}

#[test]
fn a_token_that_is_set_stops_even_a_free_lock() {
    let lock = MmapLock::new(());
    let token = InterruptToken::new();

    token.interrupt();
    assert_eq!(lock.write_interruptible(&token).map(drop), Err(Interrupted));
    token.reset();
    assert_eq!(lock.write_interruptible(&token).map(drop), Ok(()));
}

/// The writer sleeps in the queue behind a reader, and a reader behind it; nobody notifies anybody.
#[test]
fn a_sleeping_writer_notices_the_token_and_frees_the_way() {
    let lock = MmapLock::new(());
    let token = InterruptToken::new();
    let reader = lock.read();

    thread::scope(|scope| {
        let writer = scope.spawn(|| lock.write_interruptible(&token).map(drop));
        while lock.try_read().is_some() {
            thread::yield_now();
        }
        let behind = scope.spawn(|| drop(lock.read()));
        let_it_sleep();
        token.interrupt();

        assert_eq!(writer.join().unwrap(), Err(Interrupted));
        behind.join().unwrap();
    });

    drop(reader);
    assert!(lock.try_write().is_some());
}

/// Writers that give up at random, against others that do not.
#[test]
fn writers_that_give_up_lose_nothing() {
    let lock = RmapLock::new(0_usize);
    let token = InterruptToken::new();
    let given_up = AtomicUsize::new(0);
    let done = AtomicBool::new(false);

    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                token.interrupt();
                thread::yield_now();
                token.reset();
                thread::yield_now();
            }
        });
        let writers = [(); 2].map(|()| {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    match lock.write_interruptible(&token) {
                        Ok(mut count) => *count += 1,
                        Err(Interrupted) => {
                            given_up.fetch_add(1, Relaxed);
                        }
                    }
                    drop(lock.read());
                }
            })
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Relaxed);
    });

    assert_eq!(*lock.read() + given_up.into_inner(), 2 * ROUNDS);
}

#[test]
fn a_panic_under_the_lock_releases_it() {
    let lock = RmapLock::new(());

    let panicked = thread::scope(|scope| {
        scope
            .spawn(|| {
                let _guard = lock.write();
                panic!("under the lock");
            })
            .join()
    });

    assert!(panicked.is_err());
    assert!(lock.try_write().is_some());
}
