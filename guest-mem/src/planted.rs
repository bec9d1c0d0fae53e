//! Bugs that the models plant, so that we know the models can fail.
//!
//! loom runs all threads of a model on the OS thread that called it, so what a test plants reaches its own model and
//! no other. Outside the models [`is`] is the constant `false` and leaves nothing behind.

/// One way to break a protocol of this crate; a model that catches each says so in its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    // References of folios: `folio/models/references.rs`.
    /// A reference is taken from a folio that has none.
    GetFromZero,
    /// Freezing looks at the count, then writes zero.
    FreezeInTwoSteps,
    /// Giving a reference back orders nothing.
    RelaxedPut,
    // Mapcounts: `folio/models/mapcounts.rs`.
    /// A reader does not look at the sequence count again.
    ReadOnce,
    /// A split counts the pages first, and says nothing to readers.
    SplitPagesFirst,
    /// A split gives up the huge mapping first, and says nothing to readers.
    SplitHugeFirst,
    /// Two splits write at a time.
    SplitWithoutLock,
    /// A huge mapping that comes or goes does not advance the sequence count.
    HugeKeepsSequence,
    /// A huge mapping goes by way of a split.
    UnmapByPieces,
    // The folio lock: `folio/models/lock.rs`.
    /// A waiter goes to sleep without leaving its mark in the word.
    SleepUnmarked,
    /// The end of a fill looks for waiters, then unlocks.
    LookThenUnlock,
    /// The end of a fill orders nothing.
    RelaxedEndFill,
    // VMAs: `vma/models.rs`.
    /// A fault does not look whether the VMA it locked is still attached.
    IgnoreDetached,
    /// A change of the tree does not detach the VMAs that it replaces.
    StayAttached,
    /// A change of the tree publishes the new VMAs before it detaches the old ones.
    PublishFirst,
    // The page table: `pgtable/models/`.
    /// Whoever got a reference without a lock does not look at the entry again.
    NoSecondLook,
    /// A pin looks again, and marks the entry then.
    MarkLater,
    /// A page table is exposed over a huge entry.
    ExposeOverHuge,
    /// A huge entry is set over a page table.
    HugeOverTable,
    /// A split clears the huge entry, then exposes the page table.
    SplitClearsFirst,
    /// A split exposes the page table, then fills it.
    SplitExposesFirst,
    /// A split forgets the marks that readers set while it filled the page table.
    SplitForgetsMarks,
    /// Exposing a page table orders nothing.
    RelaxedExpose,
    /// Setting an entry orders nothing.
    RelaxedSet,
    // The memory manager: `mm/models/`.
    /// A fault goes by what it saw before it had the page-table lock.
    LookBeforeLock,
    /// A fault exposes a page table before it tries a huge entry.
    TableFirst,
    /// A fill does not look whether another one was there first.
    FillUnlooked,
    /// What a filler returns after its fill was given up is taken all the same.
    LateFill,
    /// A discard closes pages before it announces that.
    CloseFirst,
    /// A discard gives frames back before it announces the end.
    FreeBeforeEnd,
    /// A discard opens an entry before it gives the frame back.
    OpenFirst,
    /// A discard wakes nobody.
    NoWake,
    /// A discard wakes before it opens the entries.
    WakeFirst,
    /// A discard looks at the references to a folio, then frees it.
    LookThenFree,
    /// A fault maps what it has found without a reference of its own.
    MapUncounted,
    /// A fault does not look whether its range is being removed.
    FaultInClosed,
    /// A removal tells nobody but the subscribers of whoever asked for it.
    TellOnlyOwn,
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
