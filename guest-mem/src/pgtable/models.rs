//! loom models of the page table: at most 3 threads, one 2 MiB range of 2 pages, 5 forced switches.
//!
//! Each is run as it is, and once with each bug that it must catch ([`planted`](crate::planted)). Frames are those of
//! a real [`FrameTable`]. What a frame holds is a number, read and written with no ordering of its own: whoever is not
//! synchronized with the frame's user by the page table and the references may read any number it ever held.
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its model")]

mod references;
mod slots;

// Not loom's: its destructor panics when loom unwinds the threads of a model that failed.
use std::sync::Arc;

use mmu_notifier::{
    AddressRange,
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        thread,
    },
};

use super::{Entry, EntryFlags, PageTable, PtGuard};
use crate::{
    folio::{ExclusiveFolio, FrameTable},
    frame::{BLOCK_SIZE, Gfn, PageSize, Pfn},
    planted::Bug,
};

/// The bound on forced switches.
const PREEMPTIONS: usize = 5;

/// The two pages of the 2 MiB range that models use.
const PAGES: [Gfn; 2] = [Gfn::new(0), Gfn::new(1)];

#[track_caller]
fn model(planted: Option<Bug>, f: impl Fn() + Sync + Send + 'static) {
    crate::models::explore(PREEMPTIONS, planted, f);
}

/// A page table, the frames of one block, and what they hold.
struct Guest {
    table: PageTable,
    frames: FrameTable,
    content: [AtomicU64; 2],
}

impl Guest {
    fn new() -> Arc<Self> {
        let guest = Arc::new(Self {
            table: PageTable::new(AddressRange::new(0, BLOCK_SIZE).unwrap()).unwrap(),
            frames: FrameTable::new(512),
            content: [AtomicU64::new(0), AtomicU64::new(0)],
        });
        // What is made on first use is made here: loom does not see the `OnceBox` that orders it.
        guest.lock().expose_table().unwrap();
        guest
    }

    fn lock(&self) -> PtGuard<'_> {
        self.table.lock(PAGES[0]).unwrap()
    }

    /// Claims the folio at `frame` and fills it, each of its frames with its own number.
    fn filled(&self, frame: u64, size: PageSize, content: u64) -> ExclusiveFolio<'_> {
        let folio = self.frames.claim(frame, size).unwrap();
        let frames = match size {
            PageSize::Base => frame..frame + 1,
            PageSize::Huge => 0..2,
        };
        frames.for_each(|frame| self.content(frame).store(content + frame, Relaxed));
        folio
    }

    fn content(&self, frame: u64) -> &AtomicU64 {
        &self.content[usize::try_from(frame).unwrap()]
    }

    /// What the page holds, read through `entry`.
    fn read(&self, gfn: Gfn, entry: Entry) -> u64 {
        self.content(entry.pfn_of(gfn).index()).load(Relaxed)
    }

    fn map_huge(&self, folio: ExclusiveFolio<'_>) {
        let folio = folio.unfreeze(1).leak();
        folio.map_huge();
        self.lock().set_huge(huge()).unwrap();
    }

    fn map_page(&self, gfn: Gfn, folio: ExclusiveFolio<'_>) {
        let folio = folio.unfreeze(1).leak();
        folio.map_page(0);
        let mut guard = self.lock();
        guard.expose_table().unwrap();
        guard.set_page(gfn, base(folio.index())).unwrap();
    }

    /// Clears the page and gives its reference back.
    fn unmap_page(&self, gfn: Gfn) -> Option<ExclusiveFolio<'_>> {
        let entry = self.lock().clear_page(gfn);
        let folio = self.frames.borrow(entry.pfn().index(), PageSize::Base).unwrap();
        folio.unmap_page(0);
        folio.put_many(1)
    }
}

fn base(frame: u64) -> Entry {
    Entry::new(Pfn::new(0, frame), PageSize::Base, EntryFlags::WRITE)
}

fn huge() -> Entry {
    Entry::new(Pfn::new(0, 0), PageSize::Huge, EntryFlags::WRITE)
}

/// Runs `f` on a thread of its own.
fn spawn<R: 'static>(guest: &Arc<Guest>, f: impl FnOnce(&Guest) -> R + 'static) -> thread::JoinHandle<R> {
    let guest = Arc::clone(guest);
    thread::spawn(move || f(&guest))
}
