//! Fills that are under way: at most one for a page, and each can be given up while its filler still runs.
//!
//! ```text
//!   a handler                                the supervisor
//!   begin: these pages are mine              sees that the filler passed its deadline
//!   filler writes the handler's buffer       give up, unless it is held: the pages are nobody's
//!   hold: still mine? then it stays mine     take the frames back that it had
//!   copy, install                            wake whoever waits for the pages: they fault again
//!   let go; end
//! ```
//! So what a late filler returns is thrown away, and never lands in memory that the guest has been using since.

use std::ops::Range;

use mmu_notifier::sync::{Mutex, lock};

use crate::{
    Gfn, Pfn,
    planted::{self, Bug},
};

/// The fills of one address space.
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
    pages: Range<Gfn>,
    /// The frames that were taken for it.
    frames: Option<Range<Pfn>>,
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
#[must_use = "its frames are to be given back"]
pub(crate) struct Ended {
    /// Its pages.
    pub(crate) pages: Range<Gfn>,
    /// Frames that were taken for it and that nobody maps.
    pub(crate) frames: Option<Range<Pfn>>,
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

    /// Makes `pages` this caller's to fill; `None` while another fill has any of them.
    pub(crate) fn begin(&self, pages: Range<Gfn>) -> Option<Ticket> {
        let mut running = lock(&self.running);
        let taken = |other: &Range<Gfn>| other.start < pages.end && pages.start < other.end;
        if running.fills.iter().any(|other| taken(&other.pages)) {
            return None;
        }
        running.last += 1;
        let ticket = Ticket(running.last);
        running.fills.push(Fill { ticket, pages, frames: None, held: false });
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
        let Fill { pages, frames, .. } = self.fills.swap_remove(at);
        Some(Ended { pages, frames })
    }
}

impl Held<'_> {
    /// Notes that `frames` were taken for the fill, or that they are mapped now and nobody gives them back.
    pub(crate) fn set_frames(&self, frames: Option<Range<Pfn>>) {
        if let Some(fill) = lock(&self.fills.running).find(self.ticket) {
            fill.frames = frames;
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

    fn pages(start: u64, end: u64) -> Range<Gfn> {
        Gfn::new(start)..Gfn::new(end)
    }

    #[test]
    fn a_page_is_filled_by_one() {
        let fills = Fills::new(2);
        let first = fills.begin(pages(0, 16)).unwrap();

        assert_eq!(fills.begin(pages(15, 17)), None);
        assert!(fills.begin(pages(16, 32)).is_some());

        assert_eq!(fills.end(first), Some(Ended { pages: pages(0, 16), frames: None }));
        assert!(fills.begin(pages(15, 16)).is_some());
    }

    #[test]
    fn what_was_given_up_is_not_held_any_more_and_gives_its_frames_back() {
        let fills = Fills::new(2);
        let frames = Pfn::new(1, 0)..Pfn::new(1, 16);
        let stalled = fills.begin(pages(0, 16)).unwrap();
        fills.hold(stalled).unwrap().set_frames(Some(frames.clone()));

        let ended = fills.give_up(stalled).unwrap();

        assert_eq!(ended.frames, Some(frames));
        assert_eq!(fills.hold(stalled).err(), Some(GivenUp));
        assert_eq!(fills.end(stalled), None);
        assert!(fills.begin(pages(0, 16)).is_some());
    }

    #[test]
    fn what_is_held_is_not_given_up() {
        let fills = Fills::new(2);
        let fill = fills.begin(pages(0, 16)).unwrap();
        let held = fills.hold(fill).unwrap();

        assert_eq!(fills.give_up(fill), None);
        drop(held);

        assert!(fills.give_up(fill).is_some());
    }
}
