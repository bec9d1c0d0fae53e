//! The one place that atomics, locks and threads come from: `std`'s, or loom's under `--cfg loom`.
//!
//! Code of this crate and of the crates above it that is to be modelled names these paths and no others, so that
//! loom is a `cfg` and not a rewrite. Both sides re-export the same names, and only names that exist in both.

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
