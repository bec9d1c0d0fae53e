//! What a subscriber implements.

use crate::{AddressRange, Invalidation, SequenceIsSet, SequenceUpdate, WouldBlock};

/// Whoever keeps translations of the whole address space: a range notifier.
///
/// Callbacks may sleep, except in a start that [may not](Invalidation::is_blockable). They come from many threads at
/// once. A callback takes no lock of the owner, never calls into it, and never waits for work that may touch the
/// address space.
///
/// A callback that panics does not harm the owner: the rest of the subscribers are told as usual, then the panic
/// goes on in the thread that invalidates. A subscriber that panicked in a start counts as told and gets the end.
pub trait Subscriber: Send + Sync {
    /// What to call this subscriber in an error. Asked for once, when it registers.
    fn name(&self) -> &str;

    /// The range is about to change. When this returns, the subscriber uses none of its translations and makes no
    /// new ones until the end.
    ///
    /// # Errors
    /// [`WouldBlock`], from [`Invalidation::may_block`]: nothing was done, and no end will come.
    fn invalidate_range_start(&self, invalidation: &Invalidation) -> Result<(), WouldBlock>;

    /// The range has changed, or the invalidation was given up; translations may be made again. Comes exactly once
    /// for each start that was not refused, unless the subscriber is unregistered in between.
    fn invalidate_range_end(&self, invalidation: &Invalidation) {
        let _ = invalidation;
    }

    /// The subscriber is unregistered or the address space ends: all translations must be dropped, and none made
    /// again, before this returns. Called exactly once. Other callbacks may still run beside it, and come after it
    /// until [`unregister`](crate::Subscriptions::unregister) or [`release`](crate::Subscriptions::release) returns.
    fn release(&self) {}

    /// Was any page of the range used since last asked? Forgets it, also where the processor or device has cached it.
    fn clear_flush_young(&self, range: AddressRange) -> bool {
        let _ = range;
        false
    }

    /// As [`clear_flush_young`](Self::clear_flush_young), but caches of the used mark may stay.
    fn clear_young(&self, range: AddressRange) -> bool {
        let _ = range;
        false
    }

    /// Was the page at `address` used since last cleared? Forgets nothing.
    fn test_young(&self, address: u64) -> bool {
        let _ = address;
        false
    }
}

/// Whoever keeps translations of one range: an interval notifier.
///
/// The rules of [`Subscriber`] hold here as well.
pub trait IntervalSubscriber: Send + Sync {
    /// What to call this subscriber in an error. Asked for once, when it is inserted.
    fn name(&self) -> &str;

    /// A range that overlaps the subscriber's is about to change. Under the subscriber's own lock, the one it calls
    /// [`read_retry`](crate::IntervalSubscription::read_retry) under: call [`SequenceUpdate::set`] and drop the
    /// translations in the range. There is no end; [`read_begin`](crate::IntervalSubscription::read_begin) knows.
    ///
    /// # Errors
    /// [`WouldBlock`], from [`Invalidation::may_block`]: nothing was done.
    fn invalidate(
        &self,
        invalidation: &Invalidation,
        sequence: SequenceUpdate<'_>,
    ) -> Result<SequenceIsSet, WouldBlock>;
}
