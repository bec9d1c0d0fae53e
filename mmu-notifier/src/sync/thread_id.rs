//! A small number for each thread: its identity, and its place among the stripes.

use std::{
    cell::Cell,
    num::NonZeroUsize,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::const_thread_local;

/// The next number to give out. A `std` atomic under loom too: it orders nothing, and only equality of what it gives
/// is looked at there.
static NEXT: AtomicUsize = AtomicUsize::new(1);

const_thread_local! {
    /// This thread's number; zero before its first use.
    static ID: Cell<usize> = Cell::new(0)
}

const_thread_local! {
    /// How many stripes this thread has moved on from where its number puts it.
    static MOVED: Cell<usize> = Cell::new(0)
}

/// The calling thread's number: never that of another thread of this process, dead or alive.
#[inline]
#[must_use]
pub fn thread_id() -> NonZeroUsize {
    ID.with(|id| NonZeroUsize::new(id.get()).unwrap_or_else(|| first_use(id)))
}

#[cold]
fn first_use(id: &Cell<usize>) -> NonZeroUsize {
    // Wraps after 2^64 threads, so zero is never given.
    let fresh = NonZeroUsize::new(NEXT.fetch_add(1, Relaxed)).unwrap_or(NonZeroUsize::MAX);
    id.set(fresh.get());
    fresh
}

/// Which of `stripes` (a power of two) the calling thread, whose number is `thread`, starts at.
///
/// Under loom always the first, so that models meet contended stripes and their executions repeat.
#[inline]
#[must_use]
pub fn stripe(thread: NonZeroUsize, stripes: usize) -> usize {
    if cfg!(loom) { 0 } else { thread.get().wrapping_add(MOVED.with(Cell::get)) & (stripes - 1) }
}

/// The calling thread met another at its stripe: it goes to the next one, so that two threads whose numbers happen to
/// fall together do not write each other's cache lines for ever.
pub fn leave_stripe() {
    if !cfg!(loom) {
        MOVED.with(|moved| moved.set(moved.get().wrapping_add(1)));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_its_number_and_shares_it_with_none() {
        let here = thread_id();

        let there = std::thread::spawn(thread_id).join().unwrap();

        assert_eq!(here, thread_id());
        assert_ne!(here, there);
    }

    #[test]
    fn a_thread_that_leaves_its_stripe_goes_to_the_next() {
        let thread = thread_id();
        let before = stripe(thread, 16);

        leave_stripe();

        assert_eq!(stripe(thread, 16), (before + 1) % 16);
        assert_eq!(stripe(thread, 1), 0);
    }
}
