//! What an invalidation must hold.
//!
//! Every invalidation holds mmap_lock, a VMA lock or a reverse-map lock from before its start until after its end.
//! A start therefore borrows the guard of such a lock, for as long as the invalidation lasts. What leans on it is
//! [`take_all_locks`](crate::take_all_locks): holding all these locks proves that no invalidation is under way, and
//! registration [under all locks](crate::AllLocks) needs no more than that. Registration by grace period looks at
//! the in-flight marks instead and would be right without.
//!
//! An owner that has no such locks says so with [`Subscriptions::exempt`].

use crate::{
    MmapReadGuard, MmapWriteGuard, RmapReadGuard, RmapWriteGuard, Subscriptions, VmaReadGuard, VmaWriteGuard,
    sync::atomic::Ordering::Relaxed,
};

/// Proof that the caller holds a lock that [`take_all_locks`](crate::take_all_locks) takes, or is exempt.
///
/// The type cannot tell whether the lock belongs to the address space that is invalidated: that is the caller's to
/// get right.
pub trait Witness: sealed::Sealed {}

mod sealed {
    pub trait Sealed {}
}

/// The witness of an owner whose invalidations run under none of the locks that take_all_locks takes.
///
/// For one whose page tables the kernel runs, say: it has no VMAs and no reverse map of its own to lock. Whoever
/// holds all locks of such an owner has not stopped its invalidations. Registration under all locks knows, and waits
/// for the invalidations in flight as well.
#[derive(Debug)]
pub struct Exempt(());

impl Subscriptions {
    /// From now on, invalidations of this owner may run without a lock; see [`Exempt`].
    #[must_use]
    pub fn exempt(&self) -> &Exempt {
        let exempt = &self.shared().exempt;
        // Relaxed, both: what orders the flag is the fence behind the mark of each invalidation that is exempt. It
        // pairs with the fence behind the publication of a list: either who published sees the flag, or these
        // invalidations see the list.
        if !exempt.load(Relaxed) {
            exempt.store(true, Relaxed);
        }
        &Exempt(())
    }
}

impl sealed::Sealed for Exempt {}
impl Witness for Exempt {}

macro_rules! witnesses {
    ($($guard:ident),*) => {$(
        impl<T: ?Sized> sealed::Sealed for $guard<'_, T> {}
        impl<T: ?Sized> Witness for $guard<'_, T> {}
    )*};
}

witnesses!(MmapReadGuard, MmapWriteGuard, VmaReadGuard, VmaWriteGuard, RmapReadGuard, RmapWriteGuard);
