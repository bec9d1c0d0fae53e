//! A set of pages, kept as runs.

use std::collections::BTreeMap;

use mmu_notifier::{AddressRange, PAGE_SIZE};

/// A set of pages of one address space: costs memory by its runs, not by its pages.
#[derive(Debug, Default)]
pub(crate) struct PageSet {
    /// Start and end of each run, in bytes. No two runs touch.
    runs: BTreeMap<u64, u64>,
    /// How many pages are in it.
    pages: u64,
}

impl PageSet {
    /// How many pages are in it.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// How many of `range`'s pages are in it.
    pub(crate) fn pages_in(&self, range: AddressRange) -> u64 {
        self.runs_in(range).map(AddressRange::pages).sum()
    }

    /// The runs of `range`'s pages that are in it, from the last to the first.
    pub(crate) fn runs_in(&self, range: AddressRange) -> impl Iterator<Item = AddressRange> + '_ {
        let runs = self.runs.range(..range.end()).rev().take_while(move |&(_, &end)| end > range.start());
        runs.filter_map(move |(&start, &end)| {
            let (start, end) = (start.max(range.start()), end.min(range.end()));
            AddressRange::new(start, end - start).ok()
        })
    }

    /// Adds the pages of `range`, those that are in it already too.
    pub(crate) fn insert(&mut self, range: AddressRange) {
        let (mut start, mut end) = (range.start(), range.end());
        // From the right: every run that overlaps or touches becomes part of the new one.
        while let Some((&run_start, &run_end)) = self.runs.range(..=end).next_back()
            && run_end >= start
        {
            (start, end) = (start.min(run_start), end.max(run_end));
            self.take(run_start, run_end);
        }
        self.put(start, end);
    }

    /// Takes the pages of `range` out, as far as they are in it.
    pub(crate) fn remove(&mut self, range: AddressRange) {
        while let Some((&run_start, &run_end)) = self.runs.range(..range.end()).next_back()
            && run_end > range.start()
        {
            self.take(run_start, run_end);
            self.put(run_start, range.start());
            self.put(range.end(), run_end);
        }
    }

    fn take(&mut self, start: u64, end: u64) {
        self.runs.remove(&start);
        self.pages -= (end - start) / PAGE_SIZE;
    }

    /// A run that nothing in the set overlaps or touches; may be empty.
    fn put(&mut self, start: u64, end: u64) {
        if start < end {
            self.runs.insert(start, end);
            self.pages += (end - start) / PAGE_SIZE;
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, pages: u64) -> AddressRange {
        AddressRange::new(start * PAGE_SIZE, pages * PAGE_SIZE).unwrap()
    }

    proptest! {
        /// Against the naive model: a set of page numbers.
        #[test]
        fn agrees_with_a_set_of_numbers(
            steps in prop::collection::vec((any::<bool>(), 0_u64..40, 1_u64..12), 1..60),
            asked in (0_u64..40, 1_u64..20),
        ) {
            let (mut set, mut model) = (PageSet::default(), BTreeSet::new());

            for (add, start, pages) in steps {
                for page in start..start + pages {
                    if add { model.insert(page); } else { model.remove(&page); }
                }
                if add { set.insert(range(start, pages)) } else { set.remove(range(start, pages)) }

                let (first, count) = asked;
                prop_assert_eq!(set.pages(), model.len() as u64);
                prop_assert_eq!(set.pages_in(range(first, count)), model.range(first..first + count).count() as u64);
                let ends: Vec<_> = set.runs.iter().collect();
                prop_assert!(ends.windows(2).all(|pair| pair[0].1 < pair[1].0), "runs touch: {:?}", ends);
            }
        }
    }
}
