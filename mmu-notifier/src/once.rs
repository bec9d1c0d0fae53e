//! A box that whoever needs it first puts in its place, where it stays until the place goes.
//!
//! `std`'s `OnceLock` would do, but neither loom nor ThreadSanitizer sees what it orders.
#![expect(unsafe_code, reason = "a pointer that is shared before it is freed")]

use std::ptr;

use crate::{
    planted::{self, Bug},
    sync::atomic::{
        AtomicPtr,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
};

/// Nothing, or a box that is never replaced.
///
/// `Send + Sync`, because any thread may put the box there and any other may use and free it.
#[derive(Debug)]
pub(crate) struct OnceBox<T: Send + Sync> {
    /// Null, or from `Box::into_raw` and owned by this place.
    pointer: AtomicPtr<T>,
}

impl<T: Send + Sync> Default for OnceBox<T> {
    fn default() -> Self {
        Self { pointer: AtomicPtr::new(ptr::null_mut()) }
    }
}

impl<T: Send + Sync> OnceBox<T> {
    /// What was put there, if anything.
    pub(crate) fn get(&self) -> Option<&T> {
        // Acquire: the value is seen as it was made, pairs with the exchange in `get_or_init`.
        let pointer = self.pointer.load(Acquire);
        // SAFETY: null, or from `Box::into_raw` and not freed before `self` is dropped; nobody has it exclusively.
        unsafe { pointer.as_ref() }
    }

    /// What is there, put there now if nothing was. Of two threads that both do that, one throws its own away.
    pub(crate) fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        if let Some(there) = self.get() {
            return there;
        }
        let ours = Box::into_raw(Box::new(make()));
        if planted::is(Bug::ChainOverwrites) {
            self.pointer.swap(ours, AcqRel);
            // SAFETY: a box that this planted bug has touched is never freed.
            return unsafe { &*ours };
        }
        let publish = if planted::is(Bug::ChainRelaxed) { Relaxed } else { AcqRel };
        // Release, within AcqRel: what `make` wrote is seen by who finds the box, pairs with `get`. Acquire, where
        // another thread was first: pairs with this very exchange there.
        let pointer = match self.pointer.compare_exchange(ptr::null_mut(), ours, publish, Acquire) {
            Ok(_) => ours,
            Err(theirs) => {
                // SAFETY: from `Box::into_raw` above, and nobody else has seen it.
                drop(unsafe { Box::from_raw(ours) });
                theirs
            }
        };
        // SAFETY: as in `get`, and not null.
        unsafe { &*pointer }
    }
}

impl<T: Send + Sync> Drop for OnceBox<T> {
    fn drop(&mut self) {
        if cfg!(loom) && std::thread::panicking() {
            // A model has found what it looked for: a second panic would end the process.
            return;
        }
        let pointer = self.pointer.swap(ptr::null_mut(), Acquire);
        if !pointer.is_null() {
            // SAFETY: from `Box::into_raw`, and nobody uses it any more: all that `get` and `get_or_init` handed out
            // borrows `self`.
            drop(unsafe { Box::from_raw(pointer) });
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Release},
        },
        thread,
    };

    use super::*;

    #[test]
    fn what_is_put_there_first_stays() {
        let place = OnceBox::default();
        assert!(place.get().is_none());

        let first = *place.get_or_init(|| 1);
        let second = *place.get_or_init(|| 2);

        assert_eq!((first, second, place.get()), (1, 1, Some(&1)));
    }

    #[test]
    fn nothing_is_leaked_and_nothing_freed_twice() {
        let counted = Arc::new(());
        let place = OnceBox::default();
        let finished = AtomicUsize::new(0);

        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    assert!(Arc::ptr_eq(place.get_or_init(|| counted.clone()), &counted));
                    finished.fetch_add(1, Release);
                });
            }
        });

        // Acquire, where ThreadSanitizer sees it: the end of a scope is inside the prebuilt standard library.
        assert_eq!(finished.load(Acquire), 4);
        assert_eq!(Arc::strong_count(&counted), 2);
        drop(place);
        assert_eq!(Arc::strong_count(&counted), 1);
    }
}
