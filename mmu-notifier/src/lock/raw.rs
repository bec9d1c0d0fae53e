//! A reader-writer lock in one word, with a queue for those who have to sleep.
//!
//! **Guarantee.** Many readers or one writer; what a holder did happens before what the next one does. A waiting
//! writer gets the lock once the readers that were let in before it are gone. A waiting reader waits for one writer,
//! and for others only while they are quicker than it is at waking up.
//!
//! **Who may enter.** The word says whether a writer has the lock, how many readers have it, and whether anybody
//! waits. Newcomers enter by one compare-and-swap of the word if that is fair: a reader if there is no writer and none
//! waits, a writer if there is nothing at all. Everybody else goes to the queue.
//!
//! **The queue** is a mutex, held over looking at the word and going to sleep, and a condition variable. No wake-up is
//! lost, because a waiter marks the word before it sleeps, under the mutex, and whoever frees the lock swaps the word:
//!
//! ```text
//! waiter, under the mutex              releaser
//! word |= QUEUED                       old = word; word = free
//! look at the word: not free           if old & QUEUED: lock the mutex, wake all
//! sleep (gives up the mutex)
//! ```
//!
//! Both change the same word, so one is first. If the waiter is, the releaser sees the mark, and cannot have the mutex
//! before the waiter sleeps. If the releaser is, the waiter sees a free lock.

use std::{fmt, marker::PhantomData};

use crate::{
    interrupt::{InterruptToken, Interrupted, LOOK_EVERY},
    planted::{self, Bug},
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{
            AtomicU32,
            Ordering::{Acquire, Relaxed, Release},
        },
        const_unless_loom, lock, wait, wait_at_most,
    },
};

/// How many readers have the lock.
const READERS: u32 = (1 << 28) - 1;
/// Readers sleep in the queue. Set and cleared under the mutex.
const READERS_QUEUED: u32 = 1 << 28;
/// Writers are in the queue: exactly when `Queue::writers > 0`. Set and cleared under the mutex.
const WRITERS_QUEUED: u32 = 1 << 29;
/// The writer is [`take_all_locks`](crate::take_all_locks). Set and cleared together with `WRITER`.
const TAKEN: u32 = 1 << 30;
/// A writer has the lock.
const WRITER: u32 = 1 << 31;

/// A reader-writer lock of class `C`, without what it guards.
///
/// It is seen only where an owner shows its locks to [`take_all_locks`](crate::take_all_locks). 24 bytes.
pub struct RawLock<C> {
    word: AtomicU32,
    woken: Condvar,
    queue: Mutex<Queue>,
    class: PhantomData<fn() -> C>,
}

struct Queue {
    /// How many writers wait.
    writers: u32,
    /// Counts the writers that released the lock while somebody waited. A reader that sees it change goes before the
    /// writers that wait, so that writers in a row cannot starve it.
    releases: u32,
}

impl<C> RawLock<C> {
    const_unless_loom! {
        pub(super) fn new() -> Self {
            Self {
                word: AtomicU32::new(0),
                woken: Condvar::new(),
                queue: Mutex::new(Queue {
                    writers: 0,
                    releases: 0,
                }),
                class: PhantomData,
            }
        }
    }

    pub(super) fn try_read(&self) -> bool {
        let mut word = self.word.load(Relaxed);
        while word & (WRITER | WRITERS_QUEUED) == 0 {
            match self.enter_for_reading(word) {
                Ok(()) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    pub(super) fn read(&self) {
        if !self.try_read() {
            self.queue_for_reading();
        }
    }

    pub(super) fn try_write(&self) -> bool {
        self.try_enter(WRITER)
    }

    pub(super) fn write(&self) {
        // Without a token nothing makes it give up.
        let _ = self.write_as(WRITER, None);
    }

    pub(super) fn write_interruptible(&self, token: &InterruptToken) -> Result<(), Interrupted> {
        self.write_as(WRITER, Some(token))
    }

    pub(super) fn unlock_read(&self) {
        let old = self.word.fetch_sub(1, Release);
        if old & READERS == 1 && old & (READERS_QUEUED | WRITERS_QUEUED) != 0 {
            self.wake(&mut lock(&self.queue));
        }
    }

    pub(super) fn unlock_write(&self) {
        self.leave(WRITER);
    }

    /// Takes the lock for writing and leaves the mark; false if the mark is there already.
    ///
    /// Only for who holds all_locks: the mark changes only under it, so reading it needs no other lock.
    pub(crate) fn take(&self, interrupt: Option<&InterruptToken>) -> Result<bool, Interrupted> {
        if self.is_taken() {
            return Ok(false);
        }
        if planted::is(Bug::MarkBeforeLock) {
            self.word.fetch_or(TAKEN, Relaxed);
        }
        self.write_as(WRITER | TAKEN, interrupt)?;
        Ok(true)
    }

    /// Clears the mark and releases the lock, in one step; false if the mark is not there.
    ///
    /// Only for who holds all_locks: then a lock with the mark is one that it took.
    pub(crate) fn release(&self) -> bool {
        let taken = self.is_taken();
        if taken {
            self.leave(WRITER | TAKEN);
        }
        taken
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.word.load(Relaxed) & TAKEN != 0
    }

    fn write_as(&self, as_writer: u32, interrupt: Option<&InterruptToken>) -> Result<(), Interrupted> {
        interrupt.map_or(Ok(()), InterruptToken::check)?;
        if self.try_enter(as_writer) {
            return Ok(());
        }
        self.queue_for_writing(as_writer, interrupt)
    }

    fn try_enter(&self, as_writer: u32) -> bool {
        let order = if planted::is(Bug::RelaxedEntry) { Relaxed } else { Acquire };
        self.word.compare_exchange(0, as_writer, order, Relaxed).is_ok()
    }

    /// One more reader, if the word still is `word`.
    fn enter_for_reading(&self, word: u32) -> Result<(), u32> {
        assert!(word & READERS < READERS, "too many readers of one lock");
        self.word.compare_exchange_weak(word, word + 1, Acquire, Relaxed).map(drop)
    }

    fn leave(&self, as_writer: u32) {
        let old = self.word.fetch_sub(as_writer, Release);
        if old & (READERS_QUEUED | WRITERS_QUEUED) != 0 {
            let mut queue = lock(&self.queue);
            queue.releases = queue.releases.wrapping_add(1);
            self.wake(&mut queue);
        }
    }

    #[cold]
    fn queue_for_reading(&self) {
        let mut queue = lock(&self.queue);
        let arrival = queue.releases;
        loop {
            let word = self.word.load(Relaxed);
            let my_turn = queue.writers == 0 || queue.releases != arrival;
            if word & WRITER == 0 && my_turn {
                if self.enter_for_reading(word).is_ok() {
                    return;
                }
            } else if planted::is(Bug::SleepUnmarked)
                || self.word.compare_exchange(word, word | READERS_QUEUED, Relaxed, Relaxed).is_ok()
            {
                queue = wait(&self.woken, queue);
            }
        }
    }

    #[cold]
    fn queue_for_writing(
        &self,
        as_writer: u32,
        interrupt: Option<&InterruptToken>,
    ) -> Result<(), Interrupted> {
        let mut queue = lock(&self.queue);
        queue.writers += 1;
        self.word.fetch_or(WRITERS_QUEUED, Relaxed);
        loop {
            let word = self.word.load(Relaxed);
            let alone = word & (WRITER | READERS) == 0;
            if alone || (planted::is(Bug::IgnoreReaders) && word & WRITER == 0) {
                let others = if queue.writers == 1 { 0 } else { WRITERS_QUEUED };
                let entered = (word & !WRITERS_QUEUED) | others | as_writer;
                if self.word.compare_exchange(word, entered, Acquire, Relaxed).is_ok() {
                    queue.writers -= 1;
                    return Ok(());
                }
                continue;
            }
            queue = match interrupt {
                None => wait(&self.woken, queue),
                Some(token) => {
                    if let Err(interrupted) = token.check() {
                        self.give_up_writing(&mut queue);
                        return Err(interrupted);
                    }
                    wait_at_most(&self.woken, &self.queue, queue, LOOK_EVERY)
                }
            };
        }
    }

    /// Leaves the queue; readers that only waited behind this writer may enter now.
    fn give_up_writing(&self, queue: &mut MutexGuard<'_, Queue>) {
        queue.writers -= 1;
        if queue.writers == 0 {
            self.word.fetch_and(!WRITERS_QUEUED, Relaxed);
            if !planted::is(Bug::GiveUpSilently) {
                self.wake(queue);
            }
        }
    }

    /// Lets everybody who sleeps look again; who sleeps on marks the word anew.
    #[cold]
    fn wake(&self, _queue: &mut Queue) {
        self.word.fetch_and(!READERS_QUEUED, Relaxed);
        self.woken.notify_all();
    }
}

impl<C> fmt::Debug for RawLock<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.word.load(Relaxed) {
            word if word & TAKEN != 0 => f.write_str("taken with all locks"),
            word if word & WRITER != 0 => f.write_str("held for writing"),
            word if word & READERS != 0 => write!(f, "held by {} readers", word & READERS),
            _ => f.write_str("free"),
        }
    }
}
