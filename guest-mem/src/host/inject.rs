//! Where tests make the system calls of this module fail.
//!
//! Whatever makes system calls holds an [`Injector`] and asks it before each call. A test hands in one that it has
//! armed; everybody else hands in [`Injector::none`]. There is no global plan, so tests that run at the same time do
//! not trip over each other. Outside tests, and in models, an injector has no size and a check is nothing.

use std::io;

#[cfg(all(test, not(loom)))]
mod errnos;
#[cfg(all(test, not(loom)))]
mod plan;
#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, not(loom)))]
pub(crate) use plan::RandomPlan;

/// A system call, or one use of it, that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Operation {
    /// Opening a userfaultfd, by the device or by the system call.
    Open,
    /// UFFDIO_API.
    Handshake,
    /// UFFDIO_REGISTER.
    Register,
    /// UFFDIO_UNREGISTER.
    Unregister,
    /// UFFDIO_CONTINUE.
    Continue,
    /// UFFDIO_WRITEPROTECT.
    WriteProtect,
    /// UFFDIO_WAKE.
    Wake,
    /// UFFDIO_POISON.
    Poison,
    /// madvise(MADV_DONTNEED) of a window.
    Zap,
    /// read of a userfaultfd's events.
    ReadEvents,
    /// poll.
    Poll,
    /// eventfd.
    EventFd,
    /// memfd_create.
    MemfdCreate,
    /// ftruncate.
    Truncate,
    /// fcntl(F_ADD_SEALS).
    Seal,
    /// mmap.
    Map,
    /// fallocate that makes pages present.
    Fallocate,
    /// fallocate(FALLOC_FL_PUNCH_HOLE).
    Punch,
    /// madvise of any other kind.
    Advise,
    /// Starting a thread.
    Spawn,
}

/// A handle on what is to fail; clones share one plan.
#[derive(Clone, Debug, Default)]
pub(crate) struct Injector {
    #[cfg(all(test, not(loom)))]
    plan: Option<mmu_notifier::sync::Arc<plan::Plan>>,
}

impl Injector {
    /// An injector that lets every call through.
    #[must_use]
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// Whether a call of `operation` may be made now.
    ///
    /// # Errors
    /// What the call is to return instead of being made.
    #[inline]
    #[cfg_attr(
        any(not(test), loom),
        expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "nothing fails outside tests")
    )]
    pub(crate) fn check(&self, operation: Operation) -> io::Result<()> {
        #[cfg(all(test, not(loom)))]
        if let Some(plan) = &self.plan {
            return plan.check(operation);
        }
        let _ = operation;
        Ok(())
    }
}

#[cfg(any(not(test), loom))]
const _: () = assert!(size_of::<Injector>() == 0, "outside tests an injector is nothing");
