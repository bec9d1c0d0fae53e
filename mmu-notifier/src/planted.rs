//! Bugs that the models plant, so that we know the models can fail.
//!
//! loom runs all threads of a model on the OS thread that called it, so what a test plants reaches its own model and
//! no other. Outside the models [`is`] is the constant `false` and leaves nothing behind.

/// One way to break the locks or the protocol; a model that catches each says so in its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    // Locks: `lock/models.rs`.
    /// A writer from the queue enters among readers.
    IgnoreReaders,
    /// Entering as a writer is not an acquire operation.
    RelaxedEntry,
    /// A waiter goes to sleep without leaving its mark in the word.
    SleepUnmarked,
    /// A writer that gives up does not wake the readers behind it.
    GiveUpSilently,
    // All locks: `all_locks/models.rs`, `models/registration.rs`.
    /// All locks are taken but for the VMA locks.
    SkipVmaLocks,
    /// All locks are taken but for the reverse-map locks.
    SkipRmapLocks,
    /// All locks are taken without all_locks.
    NoAllLocks,
    /// The mark is set before the lock is taken, so an interruption releases somebody else's.
    MarkBeforeLock,
    // Notifiers: `models/`.
    /// An invalidation reads the list without a fence behind its mark.
    MarkWithoutFence,
    /// An invalidation reads the list, then marks itself in flight.
    ReadBeforeMark,
    /// Registration scans the marks before it publishes.
    ScanBeforePublish,
    /// Registration does not wait for what it found in flight.
    NoGracePeriod,
    /// Registration under all locks takes none of them.
    NoLocks,
    /// A replaced snapshot is freed at once.
    FreeAtOnce,
    /// A callback is announced without a fence behind it.
    CallWithoutFence,
    /// Unregistration does not wait for running callbacks.
    NoCallbackWait,
    /// Whoever ends a subscription calls `release`, however many do.
    ReleaseTwice,
    /// Whoever ends an invalidation does not wake those who wait for that.
    LostWakeup,
    /// Whoever ends the last invalidation that is active at an interval does not wake its readers.
    LostReaderWakeup,
    /// A reader goes to sleep at an interval without leaving its mark there.
    ReaderSleepsUnmarked,
    /// `end` goes to whoever is subscribed when it is sent.
    EndToCurrentList,
    /// A refused start sends its end to the refuser too.
    EndToRefuser,
    /// A refused start sends no end at all.
    NoRollback,
    /// `read_begin` looks for invalidations first and reads the sequence number then.
    SequenceReadLate,
    /// An invalidation reaches an interval before it is counted as active there.
    ActiveLate,
    /// `read_begin` of a fresh interval ignores what was in flight when it was inserted.
    IgnorePending,
    /// A gate's end does not advance its sequence number.
    GateKeepsSequence,
    /// A gate does not look at what is in progress.
    GateIgnoresProgress,
    /// An insertion takes the range of the slot's earlier operation for that of the one in flight.
    RangeOfAnother,
    /// Registration under all locks does not wait for invalidations that are exempt.
    IgnoreExempt,
    /// A further block of marks is published without release.
    ChainRelaxed,
    /// Of two threads that chain a block, the second one's takes the place of the first one's.
    ChainOverwrites,
}

#[cfg(all(test, loom))]
std::thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants `bug`, or none, into what this OS thread models from now on.
#[cfg(all(test, loom))]
pub(crate) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether `bug` was planted.
#[inline]
pub(crate) fn is(bug: Bug) -> bool {
    #[cfg(all(test, loom))]
    return PLANTED.get() == Some(bug);
    #[cfg(not(all(test, loom)))]
    {
        let _ = bug;
        false
    }
}
