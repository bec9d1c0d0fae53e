//! The end of a subscription: by itself, or with the address space.
//!
//! Both go the same way: `release` while the subscriber is still told of every change, because until it has dropped
//! its translations it must be; then out of the list; then closed, so that no callback begins; then wait for those
//! that run. Never for whole invalidations: one that is open may last, and the end that it would have sent is not
//! sent.

use std::{panic::resume_unwind, sync::Arc};

use crate::{
    AddressRange, Event, Invalidation, Subscriber, SubscriberId, Subscriptions, WrongPlace,
    entry::Panic,
    subscriptions::{Phase, RangeEntry, Shared},
};

/// Why a subscriber was not unregistered. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum UnregisterError {
    /// It would have waited for its caller.
    #[error("cannot unregister here")]
    WrongPlace(#[from] WrongPlace),
    /// The handle is another owner's.
    #[error("the subscriber is registered with another owner")]
    OtherOwner,
    /// The subscriber was unregistered already, or somebody is just doing that.
    #[error("the subscriber is not registered any more")]
    Stale,
}

/// Why an address space was not ended.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// It would have waited for its caller.
    #[error("cannot end the address space here")]
    WrongPlace(#[from] WrongPlace),
}

impl Subscriptions {
    /// Ends a subscription and gives the subscriber back.
    ///
    /// When this returns, its `release` has been called exactly once, by this or by [`release`](Self::release); no
    /// callback of it runs, and none will. Sleeps while a callback of it runs; does not wait for invalidations that
    /// are open.
    ///
    /// # Errors
    /// [`UnregisterError`].
    ///
    /// # Panics
    /// Goes on with a panic of the subscriber's `release`, when all is done.
    pub fn unregister(&self, id: SubscriberId) -> Result<Arc<dyn Subscriber>, UnregisterError> {
        let shared = self.shared();
        if id.owner != shared.owner {
            return Err(UnregisterError::OtherOwner);
        }
        shared.may_wait()?;
        let leaving = shared.begin_leaving(id).ok_or(UnregisterError::Stale)?;
        let panic = shared.release_once(&leaving).err();

        let mut registry = shared.registry();
        registry.registered.retain(|r| r.entry.entry.serial() != id.serial);
        let replacement = shared.publish(&registry);
        drop(registry);
        drop(replacement);

        let subscriber = leaving.entry.take(&shared.rcu.marks);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
        // Taken by nobody else: `begin_leaving` says yes once.
        subscriber.ok_or(UnregisterError::Stale)
    }

    /// Ends the address space: every subscriber that is still registered is released, and nobody is told anything
    /// afterwards.
    ///
    /// Interval subscribers get an [`Event::Release`] for all addresses. When this returns, no subscriber uses a
    /// translation any more, so everything may be freed. Handles stay good for
    /// [`unregister`](Self::unregister), which gives the subscriber back. Doing it again does nothing.
    ///
    /// # Errors
    /// [`ReleaseError`].
    ///
    /// # Panics
    /// Goes on with the first panic of a subscriber, when all is done.
    pub fn release(&self) -> Result<(), ReleaseError> {
        self.shared().may_wait()?;
        self.shared().end();
        Ok(())
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        if cfg!(loom) && std::thread::panicking() {
            // A model has found what it looked for: a second panic would end the process.
            return;
        }
        // Nobody else is in here: operations borrow `self`.
        self.shared().end();
    }
}

impl Shared {
    /// Claims the right to unregister `id`: once for each subscription.
    fn begin_leaving(&self, id: SubscriberId) -> Option<Arc<RangeEntry>> {
        let mut registry = self.registry();
        let found =
            registry.registered.iter_mut().find(|r| r.entry.entry.serial() == id.serial && !r.leaving)?;
        found.leaving = true;
        Some(found.entry.clone())
    }

    fn end(&self) {
        let mut registry = self.registry();
        if registry.phase == Phase::Ended {
            return;
        }
        registry.phase = Phase::Ending;
        let entries: Vec<_> = registry.registered.iter().map(|r| r.entry.clone()).collect();
        drop(registry);

        let mut panic: Option<Panic> = None;
        let everything = Invalidation::new(AddressRange::ALL, Event::Release);
        panic = panic.or(self.invalidate_intervals(everything).err());
        for entry in &entries {
            panic = panic.or(self.release_once(entry).err());
        }

        let mut registry = self.registry();
        registry.phase = Phase::Ended;
        let replacement = self.publish(&registry);
        drop(registry);
        drop(replacement);
        for entry in &entries {
            entry.entry.close();
            self.rcu.marks.wait_for_callbacks(entry.entry.serial());
        }
        if let Some(panic) = panic.filter(|_| !std::thread::panicking()) {
            resume_unwind(panic);
        }
    }
}
