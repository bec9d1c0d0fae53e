//! What every page of the guest's RAM holds, as far as one can know.

use std::sync::Mutex;

use mmu_notifier::AddressRange;
use vmm::driver::{Command, Op, RAM_BASE};

use super::run::BYTES;

/// Bytes of a zone: one huge page.
pub(crate) const ZONE: u64 = 2 << 20;
const PAGE: u64 = 4096;
const WORDS_OF_PAGE: u64 = PAGE / 8;
const PAGES: usize = (ZONE / PAGE) as usize;

/// The pattern of memory that is as new, where there is a filler.
pub(crate) const NEW: u64 = 0x1111_2222_3333;

/// What a page may hold; at least one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    /// What the guest filled it with: the seed of the pattern.
    seed: Option<u64>,
    /// What it held at first.
    new: bool,
    /// Zeros, although that is not what it held at first.
    zero: bool,
}

impl Page {
    const NEW: Self = Self { seed: None, new: true, zero: false };

    /// What a page may hold that may hold this or `other`.
    fn or(self, other: Self) -> Self {
        Self { seed: self.seed.or(other.seed), new: self.new || other.new, zero: self.zero || other.zero }
    }
}

/// Those 2 MiB pieces of RAM that are used by one side at a time; the rest is wild.
#[derive(Debug)]
pub(crate) struct Zones(Mutex<Vec<Option<Box<Zone>>>>);

/// A zone, in the hands of whoever may change it.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    number: u64,
    pages: [Page; PAGES],
}

impl Zones {
    /// All zones but the last two, as new.
    pub(crate) fn new() -> Self {
        let zone = |number| Some(Box::new(Zone { number, pages: [Page::NEW; PAGES] }));
        Self(Mutex::new((0..BYTES / ZONE - 2).map(zone).collect()))
    }

    /// Takes the first zone from `start` on that nobody has.
    pub(crate) fn take(&self, start: u64) -> Box<Zone> {
        let mut zones = self.0.lock().unwrap();
        let count = zones.len();
        let start = usize::try_from(start).unwrap() % count;
        (start..start + count).find_map(|at| zones[at % count].take()).unwrap()
    }

    pub(crate) fn put_back(&self, zone: Box<Zone>) {
        let at = usize::try_from(zone.number).unwrap();
        self.0.lock().unwrap()[at] = Some(zone);
    }

    /// What nobody has to itself.
    pub(crate) fn wild() -> AddressRange {
        AddressRange::new(RAM_BASE + BYTES - 2 * ZONE, 2 * ZONE).unwrap()
    }
}

impl Zone {
    pub(crate) fn start(&self) -> u64 {
        RAM_BASE + self.number * ZONE
    }

    /// Has the guest fill it, or verify it, under `seed`.
    pub(crate) fn command(&self, op: Op, seed: u64) -> Command {
        Command { op, base: self.start(), count: ZONE / 8, stride: 8, seed, ..Command::default() }
    }

    /// The guest filled it.
    pub(crate) fn filled(&mut self, seed: u64) {
        self.pages = [Page { seed: Some(seed), new: false, zero: false }; PAGES];
    }

    /// `pages` were discarded, but for some of them that were `pinned`; they may be `zeroed` instead of new.
    pub(crate) fn discarded(&mut self, first: u64, pages: u64, pinned: bool, zeroed: bool) {
        let first = usize::try_from(first).unwrap();
        let discarded = Page { zero: zeroed, ..Page::NEW };
        for page in &mut self.pages[first..first + usize::try_from(pages).unwrap()] {
            *page = if pinned { page.or(discarded) } else { discarded };
        }
    }

    /// A seed that a page of it may have been filled with.
    pub(crate) fn some_seed(&self, page: u64) -> Option<u64> {
        self.pages[usize::try_from(page).unwrap() % PAGES].seed
    }

    /// Asserts that as many words differ from the pattern of `seed` as have to.
    pub(crate) fn assert_verified(&self, seed: u64, mismatches: u64, first_mismatch: u64, new: Option<u64>) {
        let pages = |count: usize| count as u64 * WORDS_OF_PAGE;
        // Memory that is zeros at first has no seed, so it never matches.
        let as_new = new == Some(seed);
        let may = |page: &&Page| page.seed == Some(seed) || page.new && as_new;
        let must = |page: &&Page| {
            may(page) && !page.zero && (page.seed.is_none_or(|of| of == seed)) && (!page.new || as_new)
        };
        let surely = self.pages.iter().filter(must).count();
        let maybe = self.pages.iter().filter(may).count() - surely;
        let expected = pages(PAGES - surely - maybe)..=pages(PAGES - surely);
        assert!(
            expected.contains(&mismatches),
            "zone {:#x}: {mismatches} words, the first at {first_mismatch:#x}, differ from pattern {seed:#x} and not \
             {expected:?}: {:?}",
            self.start(),
            self.runs()
        );
    }

    /// Its pages, equal ones in a row once with their number.
    fn runs(&self) -> Vec<(usize, Page)> {
        self.pages.chunk_by(|one, next| one == next).map(|run| (run.len(), run[0])).collect()
    }
}
