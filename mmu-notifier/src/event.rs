//! What is announced: the range, the reason, and on whose behalf.

use std::{
    num::NonZeroU64,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{AddressRange, sync::Tally};

/// Why a range is invalidated; the reasons are Linux's (`enum mmu_notifier_event`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The range is unmapped for good: the addresses mean nothing afterwards.
    Unmap,
    /// Entries are cleared or replaced; the range stays mapped and may be faulted in again.
    Clear,
    /// The permissions of the whole range change.
    ProtectRange,
    /// The permissions of single entries in the range change.
    ProtectPage,
    /// Writes to the range are to be noticed again: entries lose write permission, content and place stay.
    SoftDirty,
    /// The address space ends. Sent by [`Subscriptions::release`](crate::Subscriptions::release).
    Release,
    /// Pages move to other frames.
    Migrate,
    /// A device gets exclusive access; everybody else has to fault.
    Exclusive,
}

impl Event {
    /// Every event, in declaration order.
    pub const ALL: [Self; 8] = [
        Self::Unmap,
        Self::Clear,
        Self::ProtectRange,
        Self::ProtectPage,
        Self::SoftDirty,
        Self::Release,
        Self::Migrate,
        Self::Exclusive,
    ];

    /// The place of this event in [`ALL`](Self::ALL).
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// Who caused an invalidation, so that a subscriber can ignore its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag(NonZeroU64);

impl Tag {
    /// A tag that this process has not seen before.
    #[must_use]
    pub fn unique() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        // Wraps after 2^64 tags, so zero is never given.
        Self(NonZeroU64::new(LAST.fetch_add(1, Relaxed) + 1).unwrap_or(NonZeroU64::MAX))
    }
}

/// What a subscriber is told about one invalidation; the same at its start and at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalidation {
    range: AddressRange,
    event: Event,
    tag: Option<Tag>,
    blockable: bool,
}

/// A subscriber cannot stop using the range without sleeping, and the caller forbade that.
///
/// Only [`Invalidation::may_block`] makes one, so that a start that may block cannot be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the subscriber would have to sleep to stop using the range")]
pub struct WouldBlock(pub(crate) ());

impl Invalidation {
    /// An invalidation of `range` for the reason `event`, without a tag.
    #[must_use]
    pub const fn new(range: AddressRange, event: Event) -> Self {
        Self { range, event, tag: None, blockable: true }
    }

    /// The same, caused by `tag`.
    #[must_use]
    pub const fn tagged(self, tag: Tag) -> Self {
        Self { tag: Some(tag), ..self }
    }

    /// The same, in a context that must not sleep.
    pub(crate) const fn nonblock(self) -> Self {
        Self { blockable: false, ..self }
    }

    /// The addresses that lose their translation.
    #[must_use]
    pub const fn range(&self) -> AddressRange {
        self.range
    }

    /// Why.
    #[must_use]
    pub const fn event(&self) -> Event {
        self.event
    }

    /// Who caused it, if the owner said so.
    #[must_use]
    pub const fn tag(&self) -> Option<Tag> {
        self.tag
    }

    /// Whether a subscriber may sleep while it is told.
    #[must_use]
    pub const fn is_blockable(&self) -> bool {
        self.blockable
    }

    /// Called by a subscriber right before it would sleep: goes on where sleeping is allowed, refuses where not.
    ///
    /// ```
    /// # use std::sync::{Mutex, MutexGuard, PoisonError};
    /// # use mmu_notifier::{Invalidation, WouldBlock};
    /// fn lock<'a, T>(cache: &'a Mutex<T>, invalidation: &Invalidation) -> Result<MutexGuard<'a, T>, WouldBlock> {
    ///     if let Ok(cache) = cache.try_lock() {
    ///         return Ok(cache);
    ///     }
    ///     invalidation.may_block()?;
    ///     Ok(cache.lock().unwrap_or_else(PoisonError::into_inner))
    /// }
    /// ```
    ///
    /// # Errors
    /// [`WouldBlock`] if this invalidation may not sleep: return it, and the caller is refused.
    pub const fn may_block(&self) -> Result<(), WouldBlock> {
        if self.blockable { Ok(()) } else { Err(WouldBlock(())) }
    }
}

/// Invalidations by event, counted by whoever holds the in-flight mark that this is part of.
#[derive(Debug, Default)]
pub(crate) struct EventTallies([Tally; Event::ALL.len()]);

impl EventTallies {
    #[inline]
    pub(crate) fn bump_exclusive(&self, event: Event) {
        self.0[event.index()].bump_exclusive();
    }

    pub(crate) fn get(&self, event: Event) -> u64 {
        self.0[event.index()].get()
    }
}
