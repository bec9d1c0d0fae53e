//! Fills that are under way: at most one for a page, and each can be given up while its filler still runs.
//!
//! ```text
//!   a handler                                the supervisor
//!   begin: these frames are mine             sees that the filler passed its deadline
//!   filler writes the handler's buffer       give up, unless it is held: the frames are nobody's
//!   hold: still mine? then it stays mine     give them back if they were taken
//!   copy, install                            wake whoever waits for the pages: they fault again
//!   let go; end
//! ```
//! Pages are told apart by their frames, which they have whoever maps them. So what a late filler returns is thrown away, and never lands in memory that the guest has been using since.

use std::ops::Range;

use mmu_notifier::sync::{Mutex, lock};

use crate::{
    Pfn,
    planted::{self, Bug},
    rmap::MmId,
};

/// The fills of one memory object.
#[derive(Debug)]
pub(crate) struct Fills {
    /// A leaf. Short, and in no order: a handler has one fill at a time.
    running: Mutex<Running>,
}

#[derive(Debug)]
struct Running {
    fills: Vec<Fill>,
    last: u64,
}

#[derive(Debug)]
struct Fill {
    ticket: Ticket,
    /// Whose handler began it.
    mm: MmId,
    frames: Range<Pfn>,
    /// Whether they were taken for it, and nobody else sees to them.
    taken: bool,
    held: bool,
}

/// Names one fill; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// The fill was given up: its pages may be somebody else's by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GivenUp;

/// A fill that is over, for whoever ended it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "its frames are to be given back, and whoever waits for them is to be woken"]
pub(crate) struct Ended {
    /// Its frames.
    pub(crate) frames: Range<Pfn>,
    /// Whether they were taken for it, and nobody else sees to them.
    pub(crate) taken: bool,
}

/// A fill that is not given up as long as this lives.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    fills: &'a Fills,
    ticket: Ticket,
}

impl Fills {
    /// Room for `handlers` fills at once without an allocation.
    pub(crate) fn new(handlers: usize) -> Self {
        Self { running: Mutex::new(Running { fills: Vec::with_capacity(handlers), last: 0 }) }
    }

    /// Makes `frames` this caller's to fill, a handler's of `mm`; `None` while another fill has any of them.
    pub(crate) fn begin(&self, mm: MmId, frames: Range<Pfn>) -> Option<Ticket> {
        let mut running = lock(&self.running);
        let overlaps = |other: &Fill| other.frames.start < frames.end && frames.start < other.frames.end;
        if running.fills.iter().any(overlaps) {
            return None;
        }
        running.last += 1;
        let ticket = Ticket(running.last);
        running.fills.push(Fill { ticket, mm, frames, taken: false, held: false });
        Some(ticket)
    }

    /// Keeps the fill from being given up.
    pub(crate) fn hold(&self, ticket: Ticket) -> Result<Held<'_>, GivenUp> {
        match lock(&self.running).find(ticket) {
            Some(fill) => fill.held = true,
            None if planted::is(Bug::LateFill) => {}
            None => return Err(GivenUp),
        }
        Ok(Held { fills: self, ticket })
    }

    /// The fill is over, in whatever way; `None` if it was given up before.
    pub(crate) fn end(&self, ticket: Ticket) -> Option<Ended> {
        lock(&self.running).end(ticket, false)
    }

    /// Gives the fill up; `None` if it is over, or held: while a piece of it is copied.
    pub(crate) fn give_up(&self, ticket: Ticket) -> Option<Ended> {
        lock(&self.running).end(ticket, true)
    }

    /// Gives a fill up that was begun by `mm`, which ends: none of its fills is held. `None` if there is none left.
    pub(crate) fn give_up_of(&self, mm: MmId) -> Option<Ended> {
        let mut running = lock(&self.running);
        let ticket = running.fills.iter().find(|fill| fill.mm == mm)?.ticket;
        running.end(ticket, false)
    }
}

impl Running {
    fn find(&mut self, ticket: Ticket) -> Option<&mut Fill> {
        self.fills.iter_mut().find(|fill| fill.ticket == ticket)
    }

    fn end(&mut self, ticket: Ticket, unless_held: bool) -> Option<Ended> {
        let at = self.fills.iter().position(|fill| fill.ticket == ticket)?;
        if unless_held && self.fills[at].held {
            return None;
        }
        let Fill { frames, taken, .. } = self.fills.swap_remove(at);
        Some(Ended { frames, taken })
    }
}

impl Held<'_> {
    /// Notes that its frames were taken for the fill, or that somebody else sees to it now that they are given back.
    pub(crate) fn set_taken(&self, taken: bool) {
        if let Some(fill) = lock(&self.fills.running).find(self.ticket) {
            fill.taken = taken;
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(fill) = lock(&self.fills.running).find(self.ticket) {
            fill.held = false;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const MM: MmId = MmId::new(1);

    fn frames(start: u64, end: u64) -> Range<Pfn> {
        Pfn::new(1, start)..Pfn::new(1, end)
    }

    #[test]
    fn a_page_is_filled_by_one() {
        let fills = Fills::new(2);
        let first = fills.begin(MM, frames(0, 16)).unwrap();

        assert_eq!(fills.begin(MM, frames(15, 17)), None);
        assert!(fills.begin(MM, frames(16, 32)).is_some());

        assert_eq!(fills.end(first), Some(Ended { frames: frames(0, 16), taken: false }));
        assert!(fills.begin(MM, frames(15, 16)).is_some());
    }

    #[test]
    fn what_was_given_up_is_not_held_any_more_and_gives_its_frames_back() {
        let fills = Fills::new(2);
        let stalled = fills.begin(MM, frames(0, 16)).unwrap();
        fills.hold(stalled).unwrap().set_taken(true);

        let ended = fills.give_up(stalled).unwrap();

        assert_eq!(ended, Ended { frames: frames(0, 16), taken: true });
        assert_eq!(fills.hold(stalled).err(), Some(GivenUp));
        assert_eq!(fills.end(stalled), None);
        assert!(fills.begin(MM, frames(0, 16)).is_some());
    }

    #[test]
    fn what_is_held_is_not_given_up() {
        let fills = Fills::new(2);
        let fill = fills.begin(MM, frames(0, 16)).unwrap();
        let held = fills.hold(fill).unwrap();

        assert_eq!(fills.give_up(fill), None);
        drop(held);

        assert!(fills.give_up(fill).is_some());
    }

    #[test]
    fn an_address_space_that_ends_gives_up_its_own_fills() {
        let fills = Fills::new(2);
        let other = fills.begin(MmId::new(2), frames(0, 16)).unwrap();
        for start in [16, 32] {
            fills.begin(MM, frames(start, start + 16)).unwrap();
        }

        let given_up = std::iter::from_fn(|| fills.give_up_of(MM)).map(|ended| ended.frames.start);

        assert_eq!(given_up.count(), 2);
        assert!(fills.begin(MM, frames(16, 48)).is_some());
        assert!(fills.end(other).is_some());
    }
}
