//! Threads that do one thing at a time, when they are told to.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    thread::{self, Scope},
};

use mmu_notifier::{
    InvalidationGuard,
    sync::{Mutex, lock},
};

/// Whether a thread is done: an atomic, as ThreadSanitizer does not see what std's channels order.
#[derive(Default)]
pub(crate) struct Done(AtomicBool);

impl Done {
    pub(crate) fn set(&self) {
        self.0.store(true, Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Acquire)
    }

    pub(crate) fn wait(&self) {
        while !self.is_set() {
            thread::yield_now();
        }
    }
}

/// What a thread holds open, the oldest first.
pub(crate) type Open<'scope> = Vec<InvalidationGuard<'scope>>;

type Job<'scope> = Box<dyn FnOnce(&mut Open<'scope>) + Send + 'scope>;

/// A thread that holds invalidations open. Dropping this ends them, the youngest first, and then the thread.
pub(crate) struct Invalidator<'scope> {
    letterbox: Arc<Letterbox<'scope>>,
}

#[derive(Default)]
struct Letterbox<'scope> {
    job: Mutex<Option<Job<'scope>>>,
    stop: Done,
    stopped: Done,
}

impl<'scope> Invalidator<'scope> {
    pub(crate) fn new(scope: &'scope Scope<'scope, '_>) -> Self {
        let letterbox = Arc::new(Letterbox::default());
        scope.spawn({
            let letterbox = letterbox.clone();
            move || letterbox.serve()
        });
        Self { letterbox }
    }

    /// Runs `job` on the thread, and returns when it is done.
    pub(crate) fn run<R: Send + 'scope>(
        &self,
        job: impl FnOnce(&mut Open<'scope>) -> R + Send + 'scope,
    ) -> R {
        let answer = Arc::new((Mutex::new(None), Done::default()));
        let answering = answer.clone();
        *lock(&self.letterbox.job) = Some(Box::new(move |open| {
            *lock(&answering.0) = Some(job(open));
            answering.1.set();
        }));
        while !answer.1.is_set() {
            assert!(!self.letterbox.stopped.is_set(), "the thread is gone");
            thread::yield_now();
        }
        lock(&answer.0).take().unwrap()
    }
}

impl Letterbox<'_> {
    fn serve(&self) {
        let _stopped = Stopped(&self.stopped);
        let mut open = Open::new();
        while !self.stop.is_set() {
            let job = lock(&self.job).take();
            match job {
                Some(job) => job(&mut open),
                None => thread::yield_now(),
            }
        }
        while let Some(guard) = open.pop() {
            drop(guard);
        }
    }
}

/// Says that a thread has stopped, also when that is by a panic.
struct Stopped<'a>(&'a Done);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.set();
    }
}

impl Drop for Invalidator<'_> {
    fn drop(&mut self) {
        self.letterbox.stop.set();
        self.letterbox.stopped.wait();
    }
}
