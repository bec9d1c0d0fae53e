//! The full fence that Dekker-style protocols need, at the price of nothing.
//!
//! Two threads that each write one word and then read the other's must not both miss the other's write. That takes a
//! full fence between the write and the read. loom gives that meaning to `fence(SeqCst)` alone. On x86_64 a locked
//! read-modify-write *is* a full fence (Intel SDM, volume 3, "Memory Ordering": loads and stores are not reordered
//! with locked instructions), and an `mfence` behind it would cost more than all the rest of an invalidation.
//! crossbeam-epoch makes the same choice for the same reason.

use super::atomic::Ordering::SeqCst;

/// A full fence right behind a `SeqCst` read-modify-write of the calling thread.
///
/// Only the compiler is fenced here; the processor was by the read-modify-write. This crate does not compile for
/// any architecture but x86_64.
#[cfg(not(loom))]
#[inline]
pub fn fence_after_rmw() {
    std::sync::atomic::compiler_fence(SeqCst);
}

/// A full fence right behind a `SeqCst` read-modify-write of the calling thread: under loom, spelled out.
#[cfg(loom)]
pub fn fence_after_rmw() {
    super::atomic::fence(SeqCst);
}
