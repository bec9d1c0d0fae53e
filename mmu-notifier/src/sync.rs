//! The one place that atomics, locks and threads come from: `std`'s, or loom's under `--cfg loom`.
//!
//! Code of this crate and of the crates above it that is to be modelled names these paths and no others, so that
//! loom is a `cfg` and not a rewrite. Both sides offer the same names with the same meaning.

use std::{sync::PoisonError, time::Duration};

pub mod cell;
mod fence;
mod tally;
mod thread_id;

pub use fence::fence_after_rmw;
pub use tally::Tally;
pub use thread_id::{leave_stripe, stripe, thread_id};

#[cfg(not(loom))]
pub use std::{
    hint,
    sync::{Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic},
    thread,
};

#[cfg(loom)]
pub use loom::{
    hint,
    sync::{Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic},
    thread,
};

/// Locks `mutex`, also when a thread panicked while it held it: for data that is whole between any two statements.
///
/// Under ThreadSanitizer it is tried until it is free: a lock that was slept for is acquired inside the prebuilt
/// standard library, where the sanitizer does not see it. The same goes for the three functions below.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(tsan)]
    return spin(|| mutex.try_lock());
    #[cfg(not(tsan))]
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`], for reading.
pub fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    #[cfg(tsan)]
    return spin(|| lock.try_read());
    #[cfg(not(tsan))]
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`], for writing.
pub fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    #[cfg(tsan)]
    return spin(|| lock.try_write());
    #[cfg(not(tsan))]
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(tsan)]
fn spin<G>(mut try_lock: impl FnMut() -> Result<G, std::sync::TryLockError<G>>) -> G {
    loop {
        match try_lock() {
            Ok(guard) => return guard,
            Err(std::sync::TryLockError::Poisoned(guard)) => return guard.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => thread::yield_now(),
        }
    }
}

/// Sleeps on `condvar` until it is notified, and returns with `mutex`, which `guard` holds, locked again. May also
/// return for no reason.
pub fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Like [`wait`], and also returns when `at_most` has passed.
///
/// `mutex` is the one that `guard` holds. loom knows no time: there the time is over as soon as another thread ran.
#[cfg_attr(not(loom), expect(unused_variables, reason = "loom needs the mutex"))]
pub fn wait_at_most<'a, T>(
    condvar: &Condvar,
    mutex: &'a Mutex<T>,
    guard: MutexGuard<'a, T>,
    at_most: Duration,
) -> MutexGuard<'a, T> {
    #[cfg(not(loom))]
    return condvar.wait_timeout(guard, at_most).unwrap_or_else(PoisonError::into_inner).0;
    #[cfg(loom)]
    {
        let _ = (condvar, at_most);
        drop(guard);
        thread::yield_now();
        lock(mutex)
    }
}

/// Defines a function that is `const`, except under loom, whose types have no `const` constructors.
macro_rules! const_unless_loom {
    ($(#[$attribute:meta])* $visibility:vis fn $($rest:tt)*) => {
        #[cfg(not(loom))]
        $(#[$attribute])*
        $visibility const fn $($rest)*

        #[cfg(loom)]
        $(#[$attribute])*
        $visibility fn $($rest)*
    };
}
pub(crate) use const_unless_loom;

/// Defines a thread-local whose initial value is a constant; under loom each modelled thread has its own.
macro_rules! const_thread_local {
    ($(#[$attribute:meta])* $visibility:vis static $name:ident: $type:ty = $value:expr) => {
        #[cfg(not(loom))]
        std::thread_local! { $(#[$attribute])* $visibility static $name: $type = const { $value } }

        #[cfg(loom)]
        loom::thread_local! { $(#[$attribute])* $visibility static $name: $type = $value }
    };
}
pub(crate) use const_thread_local;
