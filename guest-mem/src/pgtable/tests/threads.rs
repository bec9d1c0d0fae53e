//! Real threads over real folios: what the models show of two pages, here of all 512 and of many rounds.

use std::{
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    thread,
};

use super::*;
use crate::{folio::FrameTable, pgtable::Mapped};

const BLOCKS: u64 = 3;
const ROUNDS: u64 = 200;

/// A page table, its frames, and the number of the page that each frame was last given to.
struct Guest {
    table: PageTable,
    frames: FrameTable,
    owners: Vec<AtomicU64>,
}

impl Guest {
    fn new() -> Self {
        let frames = BLOCKS * BLOCK_PAGES;
        Self {
            table: table(),
            frames: FrameTable::new(frames),
            owners: (0..frames).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn owner(&self, pfn: Pfn) -> u64 {
        self.owners[usize::try_from(pfn.index()).unwrap()].load(Relaxed)
    }

    /// Gives the folio at `frame` to the pages from `page` on, if it is free.
    fn map(&self, page: Gfn, frame: u64, size: PageSize) -> bool {
        // A block whose last pin is not dropped yet is in use still.
        let Ok(folio) = self.frames.claim(frame, size) else { return false };
        for i in 0..size.pages() {
            self.owners[usize::try_from(frame + i).unwrap()].store(page.get() + i, Relaxed);
        }
        let folio = folio.unfreeze(1).leak();
        let mut guard = self.table.lock(page).unwrap();
        let entry = Entry::new(Pfn::new(0, frame), size, EntryFlags::WRITE);
        if size == PageSize::Huge {
            folio.map_huge();
            guard.set_huge(entry).unwrap();
        } else {
            folio.map_page(0);
            guard.expose_table().unwrap();
            guard.set_page(page, entry).unwrap();
        }
        true
    }

    fn split(&self, page: Gfn) {
        let mut guard = self.table.lock(page).unwrap();
        let entry = guard.entry(page);
        let folio = self.frames.borrow(entry.pfn().index(), PageSize::Huge).unwrap();
        folio.get_many(511);
        guard.split_huge();
        folio.split_mapping();
    }

    /// Unmaps all pages of the 2 MiB range, and frees what nobody has pinned; pins free the rest.
    fn unmap(&self, block: Gfn) {
        let mut guard = self.table.lock(block).unwrap();
        for page in (0..BLOCK_PAGES).map(|i| block.plus(i)) {
            let entry = guard.clear_page(page);
            if entry.is_present() {
                let (head, size) = entry.folio();
                let folio = self.frames.borrow(head.index(), size).unwrap();
                folio.unmap_page(if size == PageSize::Huge { entry.pfn().in_block() } else { 0 });
                drop(folio.put_many(1));
            }
        }
    }

    /// Pins a few pages and gets one, again and again, and counts how often that works.
    fn use_pages(&self, block: Gfn, worked: &AtomicU64, done: &AtomicBool) {
        for turn in 0_u64.. {
            if done.load(Acquire) {
                break;
            }
            let page = block.plus(turn * 37 % (BLOCK_PAGES - 3));
            if let Some((_reference, entry)) = self.table.get(page, &self.frames) {
                assert_eq!(self.owner(entry.pfn_of(page)), page.get());
                worked.fetch_add(1, Relaxed);
            }
            if let Ok(pin) = self.table.pin(pages(page.get(), 3), turn % 2 == 0, &self.frames) {
                for piece in pin.pieces() {
                    for i in 0..piece.pages {
                        assert_eq!(self.owner(piece.pfn.plus(i)), piece.gfn.plus(i).get());
                    }
                }
                worked.fetch_add(1, Relaxed);
            }
        }
    }
}

#[test]
fn readers_only_ever_get_frames_of_the_page_they_asked_for() {
    let (guest, done) = (Guest::new(), AtomicBool::new(false));
    let worked = [const { AtomicU64::new(0) }; 2];
    let block = gfn(3 * BLOCK_PAGES);

    thread::scope(|scope| {
        let readers = worked.each_ref().map(|worked| {
            let (guest, done) = (&guest, &done);
            scope.spawn(move || guest.use_pages(block, worked, done))
        });
        // A reader that has ended has failed.
        let waits = |reader: usize| worked[reader].load(Relaxed) < 100 && !readers[reader].is_finished();
        for round in (0..).take_while(|round| *round < ROUNDS || waits(0) || waits(1)) {
            let frame = round % BLOCKS * BLOCK_PAGES;
            if guest.map(block, frame, PageSize::Huge) {
                guest.split(block);
                guest.unmap(block);
            }
            for i in 0..BLOCK_PAGES {
                // Other frames than the page's own place, and other ones each round.
                guest.map(block.plus(i), frame + (i + round) % BLOCK_PAGES, PageSize::Base);
            }
            guest.unmap(block);
        }
        done.store(true, Release);
        // One by one: ThreadSanitizer does not see how the scope waits, and takes what follows for a race.
        for reader in readers {
            reader.join().unwrap();
        }
    });

    assert_eq!(guest.table.mapped(), Mapped::default());
    for block in 0..BLOCKS {
        assert!(guest.frames.claim(block * BLOCK_PAGES, PageSize::Huge).is_ok(), "every frame is free");
    }
}
