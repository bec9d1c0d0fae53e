//! Faults, counted by what they were for and by what stood in their way.

use mmu_notifier::sync::Tally;

/// What a fault came to, or met on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultReason {
    /// A huge page was mapped.
    Huge,
    /// A base page was mapped.
    Base,
    /// What was faulted in was mapped already: a stale or doubled event, or an entry that the host had lost.
    Spurious,
    /// A write was let through to a page that was write-protected.
    WriteProtect,
    /// A write to a range without write permission: it waits until there is one.
    Denied,
    /// Somebody else works on the page and wakes whoever waits for it.
    Busy,
    /// The VMA's lock was not to be had at once: retried under mmap_lock.
    VmaContended,
    /// The VMA was replaced since it was found: retried under mmap_lock.
    VmaDetached,
    /// There was no VMA in the snapshot: looked again under mmap_lock.
    VmaMissing,
    /// Another fault mapped the page or its range first: looked again.
    Concurrent,
    /// The host was changing its address space: tried again.
    HostAgain,
    /// The host had an entry that was not known here: it was replaced.
    HostExists,
    /// Gave way after too many retries.
    GaveUp,
    /// There was no frame, or the host refused.
    Failed,
    /// A filler returned an error.
    FillFailed,
    /// A filler's result came too late, and was thrown away.
    FillLate,
    /// Filled by a filler.
    Filled,
    /// Pages that were mapped beside those that faulted.
    Around,
    /// There was no frame until others were [taken away](super::Mm::shrink).
    Shrunk,
    /// Pages that were given up, after their faults had failed for too long.
    Poisoned,
    /// A huge page was wanted and there was none: base pages were mapped instead.
    HugeFallback,
}

impl FaultReason {
    /// All of them, in declaration order.
    pub const ALL: [Self; 21] = [
        Self::Huge,
        Self::Base,
        Self::Spurious,
        Self::WriteProtect,
        Self::Denied,
        Self::Busy,
        Self::VmaContended,
        Self::VmaDetached,
        Self::VmaMissing,
        Self::Concurrent,
        Self::HostAgain,
        Self::HostExists,
        Self::GaveUp,
        Self::Failed,
        Self::FillFailed,
        Self::FillLate,
        Self::Filled,
        Self::Around,
        Self::Shrunk,
        Self::Poisoned,
        Self::HugeFallback,
    ];

    /// What reports call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Huge => "huge",
            Self::Base => "base",
            Self::Spurious => "spurious",
            Self::WriteProtect => "write_protect",
            Self::Denied => "denied",
            Self::Busy => "busy",
            Self::VmaContended => "vma_contended",
            Self::VmaDetached => "vma_detached",
            Self::VmaMissing => "vma_missing",
            Self::Concurrent => "concurrent",
            Self::HostAgain => "host_again",
            Self::HostExists => "host_exists",
            Self::GaveUp => "gave_up",
            Self::Failed => "failed",
            Self::FillFailed => "fill_failed",
            Self::FillLate => "fill_late",
            Self::Filled => "filled",
            Self::Around => "around",
            Self::Shrunk => "shrunk",
            Self::Poisoned => "poisoned",
            Self::HugeFallback => "huge_fallback",
        }
    }
}

/// One count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultCount {
    /// Of what.
    pub reason: FaultReason,
    /// How often.
    pub count: u64,
}

/// What an address space counted so far; reading it stops nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmStats {
    /// Faults, in the order of [`FaultReason::ALL`].
    pub faults: [FaultCount; FaultReason::ALL.len()],
}

impl MmStats {
    /// How often `reason` was counted.
    #[must_use]
    pub const fn of(&self, reason: FaultReason) -> u64 {
        self.faults[reason as usize].count
    }
}

/// The counts behind [`MmStats`].
#[derive(Debug, Default)]
pub(super) struct Counts([Tally; FaultReason::ALL.len()]);

impl Counts {
    pub(super) fn add(&self, reason: FaultReason, count: u64) {
        self.0[reason as usize].add(count);
    }

    pub(super) fn get(&self) -> MmStats {
        let count = |reason| FaultCount { reason, count: self.0[reason as usize].get() };
        MmStats { faults: FaultReason::ALL.map(count) }
    }
}

impl super::Mm {
    /// The counts as they are now.
    #[must_use]
    pub fn stats(&self) -> MmStats {
        self.counts.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_place_and_name() {
        for (place, reason) in FaultReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
            let same = FaultReason::ALL.iter().filter(|other| other.name() == reason.name());
            assert_eq!(same.count(), 1);
        }
    }
}
