//! How takers and the worker wake each other.

use mmu_notifier::sync::{
    Condvar, Mutex,
    atomic::{AtomicBool, Ordering::Relaxed},
    lock, wait,
};

/// The worker's bed.
///
/// A taker that finds the stock low only leaves a mark. Whoever has the time looks for the mark and wakes the worker,
/// which is a system call.
///
/// Nothing is handed over by what is in here, so all of it may be relaxed: what the worker looks at it finds under the
/// locks of blocks.
#[derive(Debug, Default)]
pub(super) struct Signal {
    /// The mark. A hint: who leaves it may find that the worker was woken already, and who misses it comes again.
    wanted: AtomicBool,
    /// There may be work that the worker has not looked at. Changed under `bed`, as are the two below.
    kicked: AtomicBool,
    /// The worker found no work, and sleeps.
    resting: AtomicBool,
    /// The worker shall end. Set once.
    stop: AtomicBool,
    /// Held over looking at the three above and going to sleep, so that no wake-up is lost. Under no ranked lock, and
    /// none is taken under it.
    bed: Mutex<()>,
    /// For the worker.
    woken: Condvar,
    /// For those who wait for it to rest.
    rested: Condvar,
}

impl Signal {
    /// Leaves the mark.
    #[inline]
    pub(super) fn want(&self) {
        if !self.is_wanted() {
            self.wanted.store(true, Relaxed);
        }
    }

    /// Whether there is a mark.
    #[inline]
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Relaxed)
    }

    /// Wakes the worker if there is a mark.
    #[inline]
    pub(super) fn nudge(&self) {
        if self.is_wanted() {
            self.kick();
        }
    }

    /// Wakes the worker.
    #[cold]
    pub(super) fn kick(&self) {
        self.wanted.store(false, Relaxed);
        let bed = lock(&self.bed);
        self.kicked.store(true, Relaxed);
        self.resting.store(false, Relaxed);
        drop(bed);
        self.woken.notify_one();
    }

    /// Sleeps until the worker has looked for work, begun after this call, and found none.
    pub(super) fn wait_until_resting(&self) {
        self.kick();
        let mut bed = lock(&self.bed);
        while !self.resting.load(Relaxed) && !self.is_stopped() {
            bed = wait(&self.rested, bed);
        }
    }

    /// Ends the worker.
    pub(super) fn stop(&self) {
        let bed = lock(&self.bed);
        self.stop.store(true, Relaxed);
        drop(bed);
        self.woken.notify_all();
        self.rested.notify_all();
    }

    /// For the worker: whether it shall end.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// For the worker, when it found no work: sleeps until it is kicked or stopped.
    pub(super) fn rest(&self) {
        let mut bed = lock(&self.bed);
        while !self.kicked.load(Relaxed) && !self.is_stopped() {
            if !self.resting.load(Relaxed) {
                self.resting.store(true, Relaxed);
                self.rested.notify_all();
            }
            bed = wait(&self.woken, bed);
        }
        self.kicked.store(false, Relaxed);
        self.resting.store(false, Relaxed);
    }
}
