//! loom models of the raw lock. Each explores every order of what its threads do to atomics, mutexes and condition
//! variables, with at most [`PREEMPTIONS`] forced switches. loom reports a deadlock, so "nobody sleeps for ever" is
//! part of each. A test that plants a bug shows that its model would catch it.
#![expect(clippy::arc_with_non_send_sync, reason = "loom runs its threads on one")]

use super::VmaLock;
use crate::{InterruptToken, Interrupted, models::explore, planted::Bug, sync::thread};
use loom::cell::UnsafeCell;
// Not loom's: its destructor panics when loom unwinds the threads of a model that failed.
use std::sync::Arc;

/// The bound on forced switches.
const PREEMPTIONS: usize = 4;

#[track_caller]
fn model(planted: Option<Bug>, f: impl Fn() + Sync + Send + 'static) {
    explore(PREEMPTIONS, planted, f);
}

/// A lock with a cell beside it, whose every access loom checks against all others.
#[derive(Default)]
struct Checked {
    lock: VmaLock,
    cell: UnsafeCell<u32>,
}

impl Checked {
    #[expect(unsafe_code, reason = "the cell is loom's, to be raced for")]
    fn add_one(&self) {
        let _guard = self.lock.write();
        // SAFETY: loom stops the model if anybody else accesses the cell meanwhile.
        self.cell.with_mut(|value| unsafe { *value += 1 });
    }

    #[expect(unsafe_code, reason = "the cell is loom's, to be raced for")]
    fn get(&self) -> u32 {
        let _guard = self.lock.read();
        // SAFETY: loom stops the model if anybody writes the cell meanwhile.
        self.cell.with(|value| unsafe { *value })
    }
}

/// Two writers and a reader: nobody sees half of a write, and nobody sleeps for ever.
///
/// Bound: 3 threads, one operation each; 4 forced switches.
fn two_writers_and_a_reader(planted: Option<Bug>) {
    model(planted, || {
        let checked = Arc::new(Checked::default());
        let writer = thread::spawn({
            let checked = Arc::clone(&checked);
            move || checked.add_one()
        });
        let reader = thread::spawn({
            let checked = Arc::clone(&checked);
            move || assert!(checked.get() <= 2)
        });
        checked.add_one();
        writer.join().unwrap();
        reader.join().unwrap();
        assert_eq!(checked.get(), 2);
        assert!(checked.lock.try_write().is_some(), "left free");
    });
}

#[test]
fn writers_are_alone_and_wake_everybody() {
    two_writers_and_a_reader(None);
}

/// Readers hold the lock, a writer waits, a reader comes behind it.
///
/// Bound: 3 threads, one operation each; 4 forced switches.
fn two_readers_and_a_writer(planted: Option<Bug>) {
    model(planted, || {
        let checked = Arc::new(Checked::default());
        let writer = thread::spawn({
            let checked = Arc::clone(&checked);
            move || checked.add_one()
        });
        let reader = thread::spawn({
            let checked = Arc::clone(&checked);
            move || assert!(checked.get() <= 1)
        });
        assert!(checked.get() <= 1);
        writer.join().unwrap();
        reader.join().unwrap();
        assert_eq!(checked.get(), 1);
    });
}

#[test]
fn a_reader_behind_a_waiting_writer_gets_in() {
    two_readers_and_a_writer(None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_a_writer_that_ignores_readers_is_caught() {
    two_readers_and_a_writer(Some(Bug::IgnoreReaders));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_a_relaxed_entry_is_caught() {
    two_writers_and_a_reader(Some(Bug::RelaxedEntry));
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_sleeping_unmarked_is_caught() {
    two_writers_and_a_reader(Some(Bug::SleepUnmarked));
}

/// A writer that waits for a reader is interrupted, while another reader waits behind the writer.
///
/// Bound: 3 threads, one operation each, one interruption; 4 forced switches.
fn a_writer_gives_up(planted: Option<Bug>) {
    model(planted, || {
        let lock = Arc::new(VmaLock::new(()));
        let token = Arc::new(InterruptToken::new());
        // Without a guard: loom cannot run its destructor when it reports a deadlock.
        lock.raw().read();
        let writer = thread::spawn({
            let (lock, token) = (Arc::clone(&lock), Arc::clone(&token));
            move || lock.write_interruptible(&token).map(drop)
        });
        let reader = thread::spawn({
            let lock = Arc::clone(&lock);
            move || drop(lock.read())
        });
        token.interrupt();
        assert_eq!(writer.join().unwrap(), Err(Interrupted));
        // The first reader still has the lock: only the writer's leaving can let this one in.
        reader.join().unwrap();
        lock.raw().unlock_read();
        assert!(lock.try_write().is_some(), "left free");
    });
}

#[test]
fn a_writer_that_gives_up_lets_those_behind_it_in() {
    a_writer_gives_up(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_giving_up_silently_is_caught() {
    a_writer_gives_up(Some(Bug::GiveUpSilently));
}
