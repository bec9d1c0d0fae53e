//! Which pages are in the balloon, and runs of pages.

use std::ops::Range;

/// A set of guest pages of 4 KiB, by number.
#[derive(Debug, Default)]
pub(super) struct PageSet {
    /// A bit for each page up to the highest that was ever in it.
    words: Vec<u64>,
}

/// Runs of guest pages, which may be in any order and touch or overlap until they are merged. Its room is used again.
#[derive(Debug, Default)]
pub(super) struct Runs(Vec<Range<u64>>);

impl PageSet {
    /// Puts the pages of `run` in.
    pub(super) fn insert(&mut self, run: &Range<u64>) {
        let words = usize::try_from(run.end.div_ceil(64)).unwrap_or(usize::MAX);
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
        for (word, bits) in words_of(run) {
            if let Some(word) = self.words.get_mut(word) {
                *word |= bits;
            }
        }
    }

    /// Takes the pages of `run` out, if they are in.
    pub(super) fn remove(&mut self, run: &Range<u64>) {
        for (word, bits) in words_of(run) {
            if let Some(word) = self.words.get_mut(word) {
                *word &= !bits;
            }
        }
    }

    /// Whether every page of `run` is in.
    pub(super) fn covers(&self, run: &Range<u64>) -> bool {
        words_of(run).all(|(word, bits)| self.words.get(word).is_some_and(|word| word & bits == bits))
    }

    /// Calls `whole` with each run of whole units of `unit` pages that touch `run` and are in as a whole.
    pub(super) fn whole_units(&self, run: &Range<u64>, unit: u64, mut whole: impl FnMut(Range<u64>)) {
        let mut found = 0..0;
        let first = run.start - run.start % unit;
        for start in (first..run.end).step_by(usize::try_from(unit).unwrap_or(usize::MAX)) {
            let pages = start..start + unit;
            if !self.covers(&pages) {
                continue;
            }
            if found.end == start {
                found.end = pages.end;
            } else {
                if !found.is_empty() {
                    whole(found);
                }
                found = pages;
            }
        }
        if !found.is_empty() {
            whole(found);
        }
    }
}

/// The words that hold `run`, and its bits in each.
fn words_of(run: &Range<u64>) -> impl Iterator<Item = (usize, u64)> + use<> {
    let run = run.clone();
    (run.start / 64..run.end.div_ceil(64)).map(move |word| {
        let first = word * 64;
        let below = |page: u64| match page.saturating_sub(first) {
            bits @ 0..64 => (1_u64 << bits) - 1,
            _ => u64::MAX,
        };
        (usize::try_from(word).unwrap_or(usize::MAX), below(run.end) & !below(run.start))
    })
}

impl Runs {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn push(&mut self, run: Range<u64>) {
        if run.is_empty() {
            return;
        }
        // Most drivers name their pages one after the other, up or down.
        match self.0.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            Some(last) if last.start == run.end => last.start = run.start,
            _ => self.0.push(run),
        }
    }

    /// Puts the runs in order and joins what touches or overlaps.
    pub(super) fn merge(&mut self) {
        self.0.sort_unstable_by_key(|run| run.start);
        self.0.dedup_by(|next, run| {
            let joins = next.start <= run.end;
            if joins {
                run.end = run.end.max(next.end);
            }
            joins
        });
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn whole(set: &PageSet, run: Range<u64>, unit: u64) -> Vec<Range<u64>> {
        let mut found = Vec::new();
        set.whole_units(&run, unit, |run| found.push(run));
        found
    }

    #[test]
    fn a_unit_is_whole_when_its_last_page_comes() {
        let mut set = PageSet::default();

        set.insert(&(512..1023));
        assert_eq!(whole(&set, 512..1023, 512), []);
        set.insert(&(1023..1536));
        assert_eq!(whole(&set, 1023..1536, 512), vec![512..1536]);
        set.remove(&(600..601));
        set.insert(&(2048..2560));

        assert_eq!(whole(&set, 0..3000, 512), vec![1024..1536, 2048..2560]);
        assert_eq!(whole(&set, 599..602, 1), vec![599..600, 601..602]);
    }

    #[test]
    fn pages_named_one_by_one_in_any_order_are_one_run() {
        let mut runs = Runs::default();

        for page in [7, 8, 5, 4, 6, 20, 19, 6] {
            runs.push(page..page + 1);
        }
        runs.push(8..11);
        runs.merge();

        assert_eq!(runs.iter().cloned().collect::<Vec<_>>(), [4..11, 19..21]);
    }

    proptest! {
        #[test]
        fn it_holds_what_a_plain_set_does(steps in vec((any::<bool>(), 0_u64..300, 0_u64..200), 1..40)) {
            let (mut set, mut plain) = (PageSet::default(), BTreeSet::new());
            for (insert, start, len) in steps {
                let run = start..start + len;
                if insert {
                    set.insert(&run);
                    plain.extend(run);
                } else {
                    set.remove(&run);
                    plain.retain(|page| !run.contains(page));
                }
            }
            for page in 0..600 {
                prop_assert_eq!(set.covers(&(page..page + 1)), plain.contains(&page));
            }
            let units: Vec<u64> = whole(&set, 0..600, 8).into_iter().flatten().collect();
            let expected: Vec<u64> = (0..600)
                .filter(|page| (page / 8 * 8..page / 8 * 8 + 8).all(|page| plain.contains(&page)))
                .collect();
            prop_assert_eq!(units, expected);
        }

        #[test]
        fn runs_merge_to_the_same_pages(runs in vec((0_u64..100, 0_u64..20), 0..30)) {
            let mut merged = Runs::default();
            for (start, len) in &runs {
                merged.push(*start..start + len);
            }
            merged.merge();

            let expected: BTreeSet<u64> = runs.iter().flat_map(|(start, len)| *start..start + len).collect();
            prop_assert_eq!(merged.iter().cloned().flatten().collect::<Vec<_>>(), Vec::from_iter(expected));
            let merged: Vec<_> = merged.iter().collect();
            prop_assert!(merged.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
