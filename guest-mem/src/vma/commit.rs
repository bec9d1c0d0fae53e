//! Commit accounting: how much memory an address space was promised.
//!
//! A page that the guest may write is charged, for it may need a frame at any time. The charge is kept as the set of
//! charged pages, so it is exact: no page is charged twice or given back twice, whatever is split and merged, and
//! VMAs that differ only in what was charged can still be one. A page that is made unwritable and was never faulted
//! in can cost nothing any more, and gives its charge back; one that was faulted in has its frame, and keeps it.
//! (Linux decides that for all pages of a VMA together, since it cannot tell quickly which were faulted in.)

use mmu_notifier::AddressRange;

use super::page_set::PageSet;

/// The pages that may be written would be more than the address space may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{wanted} more pages of 4 KiB could be written, {committed} can already, and the limit is {limit}: raise the \
     commit limit, or make other memory unwritable first"
)]
pub struct OverCommit {
    /// The pages to charge, each 4 KiB.
    pub wanted: u64,
    /// The pages that are charged already.
    pub committed: u64,
    /// The pages that may be charged.
    pub limit: u64,
}

/// The charge of one address space.
#[derive(Debug)]
pub(super) struct Commit {
    charged: PageSet,
    /// In pages of 4 KiB.
    limit: u64,
}

impl Commit {
    pub(super) fn new(limit: u64) -> Self {
        Self { charged: PageSet::default(), limit }
    }

    /// The pages that are charged.
    pub(super) fn pages(&self) -> u64 {
        self.charged.pages()
    }

    /// The pages that may be charged.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Charges every page of `range` that is not charged yet, or none.
    pub(super) fn charge(&mut self, range: AddressRange) -> Result<(), OverCommit> {
        let wanted = range.pages() - self.charged.pages_in(range);
        let (committed, limit) = (self.pages(), self.limit);
        if wanted > limit.saturating_sub(committed) {
            return Err(OverCommit { wanted, committed, limit });
        }
        self.charged.insert(range);
        Ok(())
    }

    /// Gives back whatever is charged in `range`.
    pub(super) fn give_back(&mut self, range: AddressRange) {
        self.charged.remove(range);
    }
}

/// The parts of `range` that were never faulted in. `faulted` returns the first run of pages of a range that were.
pub(super) fn never_faulted(
    range: AddressRange,
    faulted: &dyn Fn(AddressRange) -> Option<AddressRange>,
) -> Vec<AddressRange> {
    let (mut parts, mut rest) = (Vec::new(), Some(range));
    while let Some(now) = rest {
        let run = faulted(now).and_then(|run| run.intersection(now));
        let (gap_end, next) = run.map_or((now.end(), now.end()), |run| (run.start(), run.end()));
        parts.extend(AddressRange::new(now.start(), gap_end - now.start()));
        rest = AddressRange::new(next, now.end() - next).ok();
    }
    parts
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use mmu_notifier::PAGE_SIZE;

    use super::*;

    fn range(start: u64, pages: u64) -> AddressRange {
        AddressRange::new(start * PAGE_SIZE, pages * PAGE_SIZE).unwrap()
    }

    #[test]
    fn a_page_is_charged_once() {
        let mut commit = Commit::new(10);

        commit.charge(range(0, 4)).unwrap();
        commit.charge(range(2, 4)).unwrap();

        assert_eq!(commit.pages(), 6);
    }

    #[test]
    fn what_does_not_fit_is_refused_whole() {
        let mut commit = Commit::new(10);
        commit.charge(range(0, 6)).unwrap();

        let refused = commit.charge(range(4, 7)).unwrap_err();

        assert_eq!(refused, OverCommit { wanted: 5, committed: 6, limit: 10 });
        assert_eq!(commit.pages(), 6);
        commit.charge(range(4, 6)).unwrap();
    }

    #[test]
    fn the_gaps_between_faulted_runs_are_what_was_never_faulted() {
        let runs = [range(2, 2), range(7, 1)];
        let faulted = |asked: AddressRange| runs.iter().find_map(|run| run.intersection(asked));

        assert_eq!(never_faulted(range(0, 10), &faulted), [range(0, 2), range(4, 3), range(8, 2)]);
        assert_eq!(never_faulted(range(3, 5), &faulted), [range(4, 3)]);
        assert_eq!(never_faulted(range(2, 2), &faulted), []);
        assert_eq!(never_faulted(range(0, 10), &|_| None), [range(0, 10)]);
    }
}
