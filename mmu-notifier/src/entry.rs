//! One subscription, and how it ends: callbacks that run are waited for, invalidations that are open are not.
//!
//! ```text
//!   a callback                               unregistration
//!   announce the call in the mark's slot     close the entry
//!   full fence                               full fence
//!   closed? then leave it                    look at every slot for a call of this entry, wait for it
//! ```
//! Not both can miss the other. So behind [`Entry::close`] no callback runs, none will, and the subscriber can be
//! handed back although a snapshot that names the entry may be in use for longer.
#![expect(unsafe_code, reason = "the subscriber is taken out of an entry that others may still see")]

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crate::{
    marks::{HeldSlot, Marks},
    planted::{self, Bug},
    sync::{
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Acquire, SeqCst},
        },
        cell::UnsafeCell,
        fence_after_rmw,
    },
};

/// The payload of a panic.
pub(crate) type Panic = Box<dyn Any + Send>;

/// A subscriber's place in the list.
pub(crate) struct Entry<S: ?Sized> {
    /// Never given twice by one owner, never zero.
    serial: u64,
    name: Arc<str>,
    closed: AtomicBool,
    taken: AtomicBool,
    /// Read by callbacks that found the entry open; emptied once, by who set `taken`, when none does any more.
    subscriber: UnsafeCell<Option<Arc<S>>>,
}

/// What came of trying to call a subscriber.
#[derive(Debug)]
pub(crate) enum Called<R> {
    /// The entry is closed, the subscriber was not called.
    Closed,
    Returned(R),
    Panicked(Panic),
}

// SAFETY: the cell is the only field that is not `Send` and `Sync` by itself. Shared access to it hands out `&S` on
// many threads and emptying it moves an `Arc<S>` to another thread: `S: Send + Sync` covers both. That they do not
// meet is argued where they happen.
unsafe impl<S: ?Sized + Send + Sync> Sync for Entry<S> {}
// SAFETY: as above.
unsafe impl<S: ?Sized + Send + Sync> Send for Entry<S> {}

impl<S: ?Sized> Entry<S> {
    pub(crate) fn new(serial: u64, name: Arc<str>, subscriber: Arc<S>) -> Self {
        Self {
            serial,
            name,
            closed: AtomicBool::new(false),
            taken: AtomicBool::new(false),
            subscriber: UnsafeCell::new(Some(subscriber)),
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Calls the subscriber, unless the entry is closed. A slot runs one callback at a time.
    #[inline]
    pub(crate) fn call<R>(&self, slot: HeldSlot<'_>, callback: impl FnOnce(&S) -> R) -> Called<R> {
        slot.begin_call(self.serial);
        let called = if self.closed.load(Acquire) {
            Called::Closed
        } else {
            self.subscriber.with(|subscriber| {
                // SAFETY: the entry is open behind our announcement and a fence, so whoever closes it finds the
                // announcement and empties the cell only when the call has ended.
                match unsafe { &*subscriber } {
                    // Whatever a subscriber broke by panicking is its own; nothing of ours is lent to it.
                    Some(subscriber) => match catch_unwind(AssertUnwindSafe(|| callback(subscriber))) {
                        Ok(returned) => Called::Returned(returned),
                        Err(panic) => Called::Panicked(panic),
                    },
                    None => Called::Closed,
                }
            })
        };
        slot.end_call();
        called
    }

    /// Lets no callback begin any more. Those that run go on: see [`take`](Self::take).
    ///
    /// Returns whether this call closed the entry.
    pub(crate) fn close(&self) -> bool {
        let first = !self.closed.swap(true, SeqCst);
        // Pairs with the fence behind an announced call.
        fence_after_rmw();
        first
    }

    /// Closes the entry, waits until no callback runs, and takes the subscriber out. `None` if it was taken before.
    pub(crate) fn take(&self, marks: &Marks) -> Option<Arc<S>> {
        self.close();
        if !planted::is(Bug::NoCallbackWait) {
            marks.wait_for_callbacks(self.serial);
        }
        if self.taken.swap(true, AcqRel) {
            return None;
        }
        self.subscriber.with_mut(|subscriber| {
            // SAFETY: the entry was closed, then fenced, then every announced call was waited for: no callback looks
            // at the cell now, and none that comes will. `taken` says that nobody else empties it.
            unsafe { &mut *subscriber }.take()
        })
    }
}

impl<S: ?Sized> fmt::Debug for Entry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("serial", &self.serial)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
