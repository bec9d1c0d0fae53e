//! Registration.
//!
//! **Guarantee.** When `register` returns, no operation that began before it, and so was not announced to the new
//! subscriber, is still going on. Two engines give it:
//!
//! - [`GracePeriod`]: publish the subscriber; fence; find the operations that are marked in flight; wait for exactly
//!   those. Costs what is in flight, whatever is mapped. Operations that begin after that look are announced and not
//!   waited for, so they cannot starve it. One that begins between the publication and the look is announced *and*
//!   waited for: whoever keeps an operation open must not wait for a registration that may be under way.
//! - [`AllLocks`]: take every lock under which an invalidation may run, publish, drop them. It leans on every
//!   invalidation holding one of these locks from before its start until after its end: that is what the
//!   [`Witness`](crate::Witness) of a start is for. It also keeps out faults that only add entries. Invalidations
//!   that are [exempt](Subscriptions::exempt) from the witness are waited for as the other engine does.
//!
//! The default is the grace period: it disturbs nobody, and with no operation in flight it cost 0.1 µs whatever was
//! mapped, where all locks cost 0.17 µs with nothing mapped and 1.1 ms at 60,000 mappings (the crate's README).

use std::{sync::Arc, time::Instant};

use crate::{
    InterruptToken, Interrupted, LockedSpace, Subscriber, SubscriberId, Subscriptions, WrongPlace,
    counters::nanoseconds,
    marks::InFlight,
    planted::{self, Bug},
    subscriptions::{Phase, RangeEntry, Registered, Shared},
    sync::atomic::Ordering::Relaxed,
    take_all_locks,
};

/// Why a subscriber was not registered. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// It would have waited for its caller.
    #[error("cannot register here")]
    WrongPlace(#[from] WrongPlace),
    /// The address space has ended, or is ending.
    #[error("the address space has ended")]
    Ended,
    /// The token of [`AllLocks`] was set.
    #[error("registration gave up")]
    Interrupted(#[from] Interrupted),
}

/// A way to know that nothing unannounced is going on: [`GracePeriod`] or [`AllLocks`].
pub trait Engine: sealed::Engine {}

mod sealed {
    use super::{Arc, RegisterError, Subscriber, SubscriberId, Subscriptions};

    pub trait Engine {
        /// Publishes the subscriber and returns when the guarantee holds.
        fn register(
            &self,
            subscriptions: &Subscriptions,
            subscriber: Arc<dyn Subscriber>,
        ) -> Result<SubscriberId, RegisterError>;
    }
}

/// Registers by waiting for the operations in flight, and only for those.
#[derive(Clone, Copy, Debug, Default)]
pub struct GracePeriod;

/// Registers by holding every lock of the address space.
#[derive(Debug)]
pub struct AllLocks<'a, S: LockedSpace + ?Sized> {
    space: &'a S,
    interrupt: Option<&'a InterruptToken>,
}

impl<'a, S: LockedSpace + ?Sized> AllLocks<'a, S> {
    /// By the locks of `space`, giving up when `interrupt` is set.
    #[must_use]
    pub const fn new(space: &'a S, interrupt: Option<&'a InterruptToken>) -> Self {
        Self { space, interrupt }
    }
}

impl Subscriptions {
    /// Registers `subscriber` by the default engine, [`GracePeriod`].
    ///
    /// Callbacks may come before this returns; translations may be kept only from then on. Sleeps while operations
    /// that began before, or just as it was published, are in flight.
    ///
    /// # Errors
    /// [`RegisterError`].
    pub fn register(&self, subscriber: Arc<dyn Subscriber>) -> Result<SubscriberId, RegisterError> {
        self.register_by(&GracePeriod, subscriber)
    }

    /// Registers `subscriber` by `engine`; all else is as for [`register`](Self::register).
    ///
    /// # Errors
    /// [`RegisterError`].
    pub fn register_by(
        &self,
        engine: &impl Engine,
        subscriber: Arc<dyn Subscriber>,
    ) -> Result<SubscriberId, RegisterError> {
        self.shared().may_wait()?;
        engine.register(self, subscriber)
    }
}

impl Engine for GracePeriod {}

impl sealed::Engine for GracePeriod {
    fn register(
        &self,
        subscriptions: &Subscriptions,
        subscriber: Arc<dyn Subscriber>,
    ) -> Result<SubscriberId, RegisterError> {
        let shared = subscriptions.shared();
        let (id, in_flight) = shared.add(subscriber)?;
        if !planted::is(Bug::NoGracePeriod) {
            shared.wait_for(&in_flight);
        }
        Ok(id)
    }
}

impl<S: LockedSpace + ?Sized> Engine for AllLocks<'_, S> {}

impl<S: LockedSpace + ?Sized> sealed::Engine for AllLocks<'_, S> {
    fn register(
        &self,
        subscriptions: &Subscriptions,
        subscriber: Arc<dyn Subscriber>,
    ) -> Result<SubscriberId, RegisterError> {
        let shared = subscriptions.shared();
        if planted::is(Bug::NoLocks) {
            return Ok(shared.add(subscriber)?.0);
        }
        let mmap = match self.interrupt {
            Some(token) => self.space.mmap_lock().write_interruptible(token)?,
            None => self.space.mmap_lock().write(),
        };
        let all_locks = take_all_locks(&mmap, self.space, self.interrupt)?;
        let taken = Instant::now();
        let added = shared.add(subscriber);
        drop(all_locks);
        shared.tallies.all_locks_ns.add(nanoseconds(taken.elapsed()));
        drop(mmap);
        let (id, in_flight) = added?;
        // Relaxed: behind the publication's fence, which pairs with the one behind a claimed mark. An exempt
        // invalidation that has not seen the subscriber is among `in_flight`, and its flag is seen.
        if shared.exempt.load(Relaxed) && !planted::is(Bug::IgnoreExempt) {
            shared.wait_for(&in_flight);
        }
        Ok(id)
    }
}

impl Shared {
    /// Publishes `subscriber`; with its handle, the operations that may not have seen it.
    fn add(&self, subscriber: Arc<dyn Subscriber>) -> Result<(SubscriberId, Vec<InFlight>), RegisterError> {
        // Foreign code, so not under the registry's lock.
        let name: Arc<str> = subscriber.name().into();
        let mut registry = self.registry();
        if registry.phase != Phase::Live {
            return Err(RegisterError::Ended);
        }
        let serial = registry.next_serial();
        let entry = Arc::new(RangeEntry::new(serial, name, subscriber));
        registry.registered.push(Registered { entry, leaving: false });
        let replacement = self.publish(&registry);
        drop(registry);
        drop(replacement.freed);
        self.tallies.registrations.add(1);
        Ok((SubscriberId { owner: self.owner, serial }, replacement.in_flight))
    }

    /// Sleeps until all of `operations` are over.
    pub(crate) fn wait_for(&self, operations: &[InFlight]) {
        for &operation in operations {
            self.rcu.marks.wait(operation);
        }
    }
}
