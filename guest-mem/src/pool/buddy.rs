//! The binary buddy system: which addresses of a pool are free.
//!
//! Free runs have a power of two of frames, their order is its logarithm, and they are aligned to it. A run is split
//! in halves until it is as small as asked for; a run that comes back is joined with its other half, its buddy, as
//! long as that is free too. (Knowlton, "A fast storage allocator", 1965.) Of the runs that will do the smallest is
//! used, and of those the one with the lowest address, so what is large stays large.

use std::collections::BTreeSet;

/// The free addresses of `frames` frames.
#[derive(Debug)]
pub(super) struct Buddy {
    frames: u64,
    /// By order: the first frames of the free runs.
    free: Vec<BTreeSet<u64>>,
}

/// The run is not one that was allocated.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotAllocated;

impl Buddy {
    /// Frames from 0 to `frames`, all free.
    pub(super) fn new(frames: u64) -> Self {
        let orders = u64::BITS - frames.leading_zeros();
        let mut free = vec![BTreeSet::new(); orders as usize];
        let mut start = 0;
        for order in (0..orders).rev().filter(|order| frames & (1 << order) != 0) {
            free[order as usize].insert(start);
            start += 1 << order;
        }
        Self { frames, free }
    }

    /// The first frame of a run of 2^`order`, which is not free any more; `None` if there is none.
    pub(super) fn alloc(&mut self, order: u32) -> Option<u64> {
        let order = order as usize;
        let mut have = (order..self.free.len()).find(|&order| !self.free[order].is_empty())?;
        let start = self.free[have].pop_first()?;
        while have > order {
            have -= 1;
            self.free[have].insert(start + (1 << have));
        }
        Some(start)
    }

    /// Makes the run of 2^`order` frames at `start` free again.
    ///
    /// Of a run that was not allocated by one call, this finds out only that it is free already or impossible.
    pub(super) fn free(&mut self, mut start: u64, order: u32) -> Result<(), NotAllocated> {
        let mut order = order as usize;
        let end = 1_u64
            .checked_shl(u32::try_from(order).unwrap_or(u32::MAX))
            .and_then(|len| start.checked_add(len));
        if order >= self.free.len()
            || !start.is_multiple_of(1 << order)
            || end.is_none_or(|end| end > self.frames)
            || self.overlaps_free(start, order)
        {
            return Err(NotAllocated);
        }
        while order + 1 < self.free.len() && self.free[order].remove(&(start ^ (1 << order))) {
            start &= !(1 << order);
            order += 1;
        }
        self.free[order].insert(start);
        Ok(())
    }

    /// Whether all addresses are free.
    #[cfg(test)]
    pub(super) fn is_all_free(&self) -> bool {
        let free: u64 = self.free.iter().enumerate().map(|(order, runs)| (runs.len() as u64) << order).sum();
        free == self.frames
    }

    fn overlaps_free(&self, start: u64, order: usize) -> bool {
        let inside =
            self.free[..order].iter().any(|runs| runs.range(start..start + (1 << order)).next().is_some());
        let around = self.free.iter().enumerate().skip(order);
        inside || around.into_iter().any(|(order, runs)| runs.contains(&(start & !((1 << order) - 1))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Alloc(u32),
        /// The allocated run at this place, modulo how many there are.
        Free(usize),
        /// Anything: mostly not allocated.
        FreeWrongly(u64, u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..12_u32).prop_map(Step::Alloc),
            any::<usize>().prop_map(Step::Free),
            (0..5000_u64, 0..14_u32).prop_map(|(start, order)| Step::FreeWrongly(start, order)),
        ];
        proptest::collection::vec(step, 0..80)
    }

    /// Whether an aligned run of 2^`order` is free in the bitmap.
    fn has_run(taken: &[bool], order: u32) -> bool {
        taken.chunks_exact(1 << order).any(|run| run.iter().all(|taken| !taken))
    }

    proptest! {
        #[test]
        fn it_does_what_a_bitmap_allows(frames in 1..5000_usize, steps in steps()) {
            let mut buddy = Buddy::new(frames as u64);
            let mut taken = vec![false; frames];
            let mut runs = Vec::new();

            for step in steps {
                match step {
                    Step::Alloc(order) => {
                        let could = has_run(&taken, order);
                        let start = buddy.alloc(order);
                        prop_assert_eq!(start.is_some(), could);
                        let Some(start) = start else { continue };
                        let at = usize::try_from(start).unwrap();
                        let run = &mut taken[at..at + (1 << order)];
                        prop_assert!(at.is_multiple_of(1 << order) && run.iter().all(|taken| !taken));
                        run.fill(true);
                        runs.push((start, order));
                    }
                    Step::Free(which) if !runs.is_empty() => {
                        let (start, order) = runs.swap_remove(which % runs.len());
                        prop_assert_eq!(buddy.free(start, order), Ok(()));
                        let at = usize::try_from(start).unwrap();
                        taken[at..at + (1 << order)].fill(false);
                    }
                    Step::FreeWrongly(start, order) => {
                        let at = usize::try_from(start).unwrap();
                        let run = taken.get(at..at + (1 << order));
                        let refused = !at.is_multiple_of(1 << order)
                            || run.is_none_or(|run| run.iter().any(|taken| !taken));
                        // What is taken as a whole may be freed as a whole, whoever took its parts.
                        if refused {
                            prop_assert_eq!(buddy.free(start, order), Err(NotAllocated));
                        }
                    }
                    Step::Free(_) => {}
                }
            }

            for (start, order) in runs {
                prop_assert_eq!(buddy.free(start, order), Ok(()));
            }
            prop_assert!(buddy.is_all_free());
            let largest = frames.ilog2();
            prop_assert!(buddy.alloc(largest).is_some(), "what came back was joined");
        }
    }
}
