//! Freeing huge pages of a shared memfd, so that no touch ever fails for it.
//!
//! Punching a hole gives up the reservation of its pages, and only then frees them; reserving them again is another
//! call. Whoever touches the hole in between has no promise, and its fault needs a page beyond those that were promised:
//!
//! ```text
//! discard                          touch of the same page
//! punch: the promise is gone
//!                                  fault: no promise, so an unpromised page will do
//! punch: the page is free
//! reserve: it is promised
//!                                  fault: no page without a promise is left: SIGBUS
//! ```
//!
//! So the range is taken out of the mapping first. Plain memory stands in for it; a touch lands there and asks nothing
//! of the pool. When the file's pages are mapped again, they are promised, and the old ones are free.
//!
//! What was taken out is a mapping of its own from then on, as the kernel merges no mappings of hugetlb. So that a guest that
//! gives up page after page does not come to have a mapping for each, neighbours are mapped again as one as soon as there are
//! more than a few: those that have the fewest pages, which are where little is lost. Whoever touches a page of theirs next
//! takes a fault, and finds it in the file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::discard::FreeError;
use crate::host::{self, Mapping, MoveError};

/// How often pages that are still in use are asked for.
const ATTEMPTS: u32 = 100;
/// How long whoever uses them gets between two attempts; all of them together take 10 ms or a little more.
const PAUSE: Duration = Duration::from_micros(100);
/// How many mappings one RAM may consist of when a discard has returned.
const MOST_PIECES: usize = 64;

/// The memfd of a RAM of shared huge pages, and how it is mapped.
#[derive(Debug)]
pub(crate) struct SharedHugetlb {
    file: File,
    /// Below the lock that lets one discard run at a time, and above none.
    pieces: Mutex<Pieces>,
}

impl SharedHugetlb {
    /// All `len` bytes of `file` are one mapping.
    pub(crate) const fn new(file: File, len: u64) -> Self {
        Self { file, pieces: Mutex::new(Pieces::one(len)) }
    }

    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// Frees the file's pages in `range`, which `mapping` has at the same offset, and reserves as many for it again.
    pub(crate) fn free(&self, mapping: &Mapping, range: &Range<u64>) -> Result<(), FreeError> {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        // Also if that fails: there may be plain memory then, until it is united.
        pieces.split(range);
        let punch_and_reserve = || {
            host::punch_hole(&self.file, range).map_err(FreeError::Refused)?;
            reserve(&self.file, range).map_err(FreeError::ReservationLost)
        };
        let freed = mapping.without_file(&self.file, range.clone(), punch_and_reserve).map_err(of_move);
        self.unite(mapping, &mut pieces)?;
        freed?
    }

    fn unite(&self, mapping: &Mapping, pieces: &mut Pieces) -> Result<(), FreeError> {
        while let Some(range) = pieces.to_unite() {
            match mapping.unite(&self.file, range.clone()) {
                Ok(()) => pieces.unite(&range),
                Err(MoveError::Refused(error)) => {
                    log::debug!("guest RAM stays in {} mappings: {error}", pieces.count());
                    break;
                }
                Err(error) => return Err(of_move(error)),
            }
        }
        Ok(())
    }
}

fn of_move(error: MoveError) -> FreeError {
    match error {
        MoveError::Refused(source) | MoveError::Emptied(source) => FreeError::Refused(source),
        MoveError::Lost(source) => FreeError::RamLost(source),
    }
}

/// A page that the kernel is reading or writing for somebody, a system call or the fault of a vCPU, goes back to the pool
/// when that is done: `ENOMEM` is final only if it stays.
fn reserve(file: &File, range: &Range<u64>) -> io::Result<()> {
    for _ in 1..ATTEMPTS {
        match host::reserve_huge_pages(file, range) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => thread::sleep(PAUSE),
            result => return result,
        }
    }
    host::reserve_huge_pages(file, range)
}

/// The mappings that a RAM consists of.
#[derive(Debug)]
struct Pieces {
    /// Bytes in the RAM.
    len: u64,
    /// The offsets in bytes where one ends and the next begins.
    cuts: BTreeSet<u64>,
}

impl Pieces {
    const fn one(len: u64) -> Self {
        Self { len, cuts: BTreeSet::new() }
    }

    fn count(&self) -> usize {
        self.cuts.len() + 1
    }

    /// `range` becomes one, and what is left of those around it.
    fn split(&mut self, range: &Range<u64>) {
        self.unite(range);
        let inside = |cut: &u64| (1..self.len).contains(cut);
        self.cuts.extend([range.start, range.end].into_iter().filter(inside));
    }

    /// `range`, which is whole ones, becomes one.
    fn unite(&mut self, range: &Range<u64>) {
        self.cuts.retain(|cut| *cut <= range.start || *cut >= range.end);
    }

    /// The two neighbours with the fewest bytes, if there are more than should be.
    fn to_unite(&self) -> Option<Range<u64>> {
        if self.count() <= MOST_PIECES {
            return None;
        }
        let starts = [0].into_iter().chain(self.cuts.iter().copied());
        let ends = self.cuts.iter().copied().skip(1).chain([self.len]);
        starts.zip(ends).map(|(start, end)| start..end).min_by_key(|two| two.end - two.start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGES: u64 = 512;

    /// The mappings as the kernel has them, where they begin and end.
    struct Maps(Vec<(u64, u64)>);

    impl Maps {
        /// Maps `range` anew.
        fn map(&mut self, range: &Range<u64>) {
            let mut left: Vec<_> = self
                .0
                .iter()
                .flat_map(|&(start, end)| [(start, end.min(range.start)), (start.max(range.end), end)])
                .filter(|(start, end)| start < end)
                .collect();
            left.push((range.start, range.end));
            left.sort_unstable();
            self.0 = left;
        }
    }

    proptest! {
        #[test]
        fn pieces_are_what_the_kernel_has_and_few(
            discards in prop::collection::vec((0..PAGES, 1..=6_u64), 1..150),
        ) {
            let (mut pieces, mut maps) = (Pieces::one(PAGES), Maps(vec![(0, PAGES)]));
            for (start, len) in discards {
                let range = start..(start + len).min(PAGES);
                pieces.split(&range);
                maps.map(&range);
                prop_assert_eq!(pieces.count(), maps.0.len());
                while let Some(two) = pieces.to_unite() {
                    let pairs = maps.0.windows(2).map(|pair| pair[1].1 - pair[0].0);
                    prop_assert_eq!(Some(two.end - two.start), pairs.min());
                    pieces.unite(&two);
                    maps.map(&two);
                    prop_assert_eq!(pieces.count(), maps.0.len());
                }
                prop_assert!(maps.0.len() <= MOST_PIECES);
            }
        }
    }
}
