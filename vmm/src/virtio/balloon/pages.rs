//! What becomes of the pages that a guest puts into its balloon, takes out, or says are free.

use std::{ops::Range, sync::Arc};

use guest_mem::Backing;
use mmu_notifier::{AddressRange, PAGE_SIZE};

use super::{
    super::{
        buffers::{ReadBuffers, WriteBuffers},
        queue::Answer,
    },
    config::BalloonCounters,
    page_set::{PageSet, Runs},
};
use crate::memory::Memory;

/// The most pages that one request may name: 256 MiB of them. Linux names 256 at a time.
const MOST: usize = 1 << 16;
/// Page numbers that are read at a time, in bytes.
const PIECE: usize = 1024;

/// The guest's memory, and which of its pages are in the balloon.
#[derive(Debug)]
pub(super) struct Pages {
    memory: Arc<Memory>,
    /// The pages, of 4 KiB, that go together: those of a huge page, where the guest's memory is to be made of those.
    unit: u64,
    inside: PageSet,
    /// What a request names, and what of it is to go.
    named: Runs,
    whole: Runs,
}

/// Which counter grows by what is taken away.
#[derive(Clone, Copy)]
pub(super) enum Because {
    Ballooned,
    Reported,
    Hinted,
}

impl Pages {
    pub(super) fn new(memory: Arc<Memory>) -> Self {
        let bytes = memory.rams().first().map_or(PAGE_SIZE, |ram| unit_of(ram.backing()));
        Self {
            memory,
            unit: bytes / PAGE_SIZE,
            inside: PageSet::default(),
            named: Runs::default(),
            whole: Runs::default(),
        }
    }

    /// Takes the pages away that the request names by number. Those of a huge page go when the last of them is in: one
    /// huge page, and no piece of one.
    pub(super) fn inflate(&mut self, numbers: &mut ReadBuffers, counters: &mut BalloonCounters) -> Answer {
        if self.read(numbers, counters) {
            self.whole.clear();
            for run in self.named.iter() {
                counters.inflated_pages += run.end - run.start;
                self.inside.insert(run);
                self.inside.whole_units(run, self.unit, |run| self.whole.push(run));
            }
            // A unit that two runs are part of is there twice.
            self.whole.merge();
            for run in self.whole.iter() {
                self.discard(run, Because::Ballooned, counters);
            }
        }
        Answer::Used(0)
    }

    /// The guest uses the pages again that the request names. There is nothing to give back: a touch does that.
    pub(super) fn deflate(&mut self, numbers: &mut ReadBuffers, counters: &mut BalloonCounters) -> Answer {
        if self.read(numbers, counters) {
            for run in self.named.iter() {
                counters.deflated_pages += run.end - run.start;
                self.inside.remove(run);
            }
        }
        Answer::Used(0)
    }

    /// Takes away what the buffers consist of, as far as it is whole units.
    pub(super) fn free(&mut self, buffers: &WriteBuffers, why: Because, counters: &mut BalloonCounters) {
        self.named.clear();
        for (address, len) in buffers.guest_ranges() {
            let end = (address.0 + len as u64) / PAGE_SIZE;
            self.named.push(address.0.div_ceil(PAGE_SIZE)..end.max(address.0.div_ceil(PAGE_SIZE)));
        }
        self.named.merge();
        for run in self.named.iter() {
            let start = run.start.next_multiple_of(self.unit);
            let end = run.end - run.end % self.unit;
            if start < end {
                self.discard(&(start..end), why, counters);
            }
        }
    }

    /// Reads page numbers, and makes them runs of pages that the guest has. Says whether there are not too many.
    fn read(&mut self, numbers: &mut ReadBuffers, counters: &mut BalloonCounters) -> bool {
        self.named.clear();
        if numbers.len() / 4 > MOST || !numbers.len().is_multiple_of(4) {
            counters.malformed += 1;
            return false;
        }
        let mut bytes = [0; PIECE];
        loop {
            let len = numbers.len().min(PIECE);
            let Some(piece) = bytes.get_mut(..len).filter(|piece| !piece.is_empty()) else { break };
            if numbers.read_exact(piece).is_err() {
                break;
            }
            for number in piece.as_chunks().0 {
                let page = u64::from(u32::from_le_bytes(*number));
                let has = |page| self.memory.rams().iter().any(|ram| ram.range().contains(page * PAGE_SIZE));
                if has(page) {
                    self.named.push(page..page + 1);
                } else {
                    counters.strange_pages += 1;
                }
            }
        }
        self.named.merge();
        true
    }

    fn discard(&self, run: &Range<u64>, why: Because, counters: &mut BalloonCounters) {
        let Ok(range) = AddressRange::new(run.start * PAGE_SIZE, (run.end - run.start) * PAGE_SIZE) else {
            return;
        };
        match self.memory.discard(range) {
            Ok(discarded) => {
                let counter = match why {
                    Because::Ballooned => &mut counters.discarded_bytes,
                    Because::Reported => &mut counters.reported_bytes,
                    Because::Hinted => &mut counters.hinted_bytes,
                };
                *counter += discarded.freed_bytes;
            }
            Err(error) => {
                // The guest does not use it, so it loses nothing; the host does not gain what it hoped for.
                if counters.failed_discards == 0 {
                    log::warn!("the balloon could not take {range} away: {error}; not said again");
                }
                counters.failed_discards += 1;
            }
        }
    }
}

/// How much of guest memory, in bytes, is taken away together: a huge page where the backing asks for those.
fn unit_of(backing: &Backing) -> u64 {
    match backing {
        Backing::AnonymousThp | Backing::ShmemThp | Backing::ManagedThp => backing.largest_page(),
        _ => backing.page_size(),
    }
}
