//! Taking pages of a shared object away from every address space that maps them: because somebody wants them gone, or
//! because nobody would miss them.
//!
//! It begins with frames, not with an address space. The reverse map says who shows them, and its lock is held
//! throughout: for each address space in turn start, zap, end; then the frames. Nobody sees less of an announcement for
//! being another than the one who asked.
//!
//! ```text
//! close the range                                faults leave it alone
//! reverse-map lock, for reading
//!   for each address space that shows some of it
//!     start                                      its subscribers stop using the range
//!       page-table locks: zap, entries none      each gives its reference back
//!     end
//!   for each folio: freeze, with one reference   the object's own; more, and a device has pinned it
//!     frame back
//!   open the range
//!   wake whoever faulted meanwhile
//! ```
//! An address space that ends takes its entries away by itself; it is waited for.

use std::{io, ops::Range, sync::Arc};

use mmu_notifier::{
    AddressRange, Event, Invalidation, PAGE_SIZE, RmapReadGuard,
    sync::{Mutex, Tally, lock, thread},
};

use super::{MemoryObject, Mm, Shrunk, registry, shrink::try_lock};
use crate::{
    BLOCK_PAGES, PageSize, Pfn,
    discard::Discarded,
    folio::{ExclusiveFolio, FolioBorrow, FolioRef},
    planted::{self, Bug},
    rmap::{Mapping, Windows},
};

/// What is being removed of one object: one range at a time.
#[derive(Debug, Default)]
pub(super) struct Removals {
    /// Held by the one removal that runs. Above mmap_lock.
    alone: Mutex<()>,
    /// The frames that faults leave alone: whole blocks. A leaf.
    closed: Mutex<Option<Range<Pfn>>>,
    /// Where the next shrink begins, in frames from the start. A hint.
    hand: Tally,
}

/// A range is closed until this is dropped.
struct Closed<'a>(&'a Removals);

/// Everybody who shows a range: none of them ends, and nobody begins to, as long as this lives.
struct Users<'a> {
    // Dropped first: the last owner of an address space takes this lock when it goes.
    windows: RmapReadGuard<'a, Windows>,
    all: Vec<(Arc<Mm>, AddressRange)>,
}

/// Why the entries of one address space are still there, or some of them.
#[derive(Debug, thiserror::Error)]
enum UnmapError {
    /// A subscriber would have to sleep.
    #[error(transparent)]
    Refused(#[from] mmu_notifier::Refused),
    /// It takes them away itself.
    #[error("an address space that shows them ends")]
    Ending,
    #[error("the host does not take its entries back")]
    Host(#[from] io::Error),
}

impl Removals {
    fn close(&self, frames: Range<Pfn>) -> Closed<'_> {
        *lock(&self.closed) = Some(frames);
        Closed(self)
    }

    /// Whether one of `frames` is closed.
    fn is_closed(&self, frames: &Range<Pfn>) -> bool {
        let overlaps = |closed: &Range<Pfn>| closed.start < frames.end && frames.start < closed.end;
        lock(&self.closed).as_ref().is_some_and(overlaps)
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        *lock(&self.0.closed) = None;
    }
}

impl<'a> Users<'a> {
    /// Who shows `range` of `mapping`; `None` while one of them ends.
    fn of(mapping: &'a Mapping, range: AddressRange) -> Option<Self> {
        let users = Self::still_there(mapping, range);
        (users.windows.showing(range).count() == users.all.len()).then_some(users)
    }

    /// Who shows `range` of `mapping`, but for those who end.
    fn still_there(mapping: &'a Mapping, range: AddressRange) -> Self {
        let windows = mapping.windows();
        let shown = windows.showing(range);
        let all = shown.filter_map(|window| Some((registry::find(window.mm)?, window.guest))).collect();
        Self { windows, all }
    }

    /// Lets everybody who waits in the range touch it again.
    fn wake(&self) -> io::Result<()> {
        let woken = self.all.iter().map(|(mm, guest)| {
            let start = guest.start() - mm.range().start();
            mm.wake_window(start..start + guest.len())
        });
        // All of them, also when one fails.
        woken.fold(Ok(()), io::Result::and)
    }
}

impl MemoryObject {
    /// Whether `frames` are being removed, or some of them: faults there are left alone, and woken when that is over.
    pub(super) fn is_closed(&self, frames: &Range<Pfn>) -> bool {
        self.removals().is_some_and(|removals| removals.is_closed(frames) && !planted::is(Bug::FaultInClosed))
    }

    /// Lets everybody who waits for one of `frames`, whatever address space shows it, touch it again.
    pub(super) fn wake(&self, frames: &Range<Pfn>) -> io::Result<()> {
        let shown = self.range_of(frames).ok_or(io::ErrorKind::InvalidInput)?;
        // Whoever ends waits for nothing any more.
        Users::still_there(self.mapping(), shown).wake()
    }

    /// Takes the pages of `range`, bytes from its start, away from everybody, but for those that are pinned.
    pub(super) fn remove(&self, range: AddressRange) -> io::Result<Discarded> {
        let Some(removals) = self.removals() else { return Err(io::ErrorKind::Unsupported.into()) };
        let _alone = lock(&removals.alone);
        let frames = self.frames(range);
        let blocks = self.blocks_around(&frames);
        let closed = removals.close(blocks.clone());
        let Some(shown) = self.range_of(&blocks) else { return Err(io::ErrorKind::InvalidInput.into()) };
        let users = loop {
            match Users::of(self.mapping(), shown) {
                Some(users) => break users,
                None => thread::yield_now(),
            }
        };
        let mut reached = self.reached_by(&frames);
        let unmapped = loop {
            let unmapped = Self::unmap_from_all(&users, &reached);
            // A fault that had found the range open may have made a huge page there.
            let now = self.reached_by(&frames);
            if unmapped.is_err() || now == reached {
                break unmapped;
            }
            reached = now;
        };
        let closed = (!planted::is(Bug::OpenFirst)).then_some(closed);
        let mut changed = Vec::new();
        let freed = self.free_in(&frames, &mut changed);
        for (mm, guest) in &users.all {
            mm.note_removed(*guest, &changed);
        }
        drop(closed);
        let woken = if planted::is(Bug::NoWake) { Ok(()) } else { users.wake() };
        unmapped.and(woken).and(freed)
    }

    /// Takes the entries of all who show `frames` away, each of whom is told.
    fn unmap_from_all(users: &Users<'_>, frames: &Range<Pfn>) -> io::Result<()> {
        let unmapped = users.all.iter().enumerate().map(|(at, (mm, guest))| {
            let Some(range) = mm.showing(frames, *guest) else { return Ok(()) };
            let clear = Invalidation::new(mm.reached_by(range), Event::Clear);
            let announce = || mm.owner().invalidate_range_start(&users.windows, clear);
            let _announced = (at == 0 || !planted::is(Bug::TellOnlyOwn)).then(announce);
            mm.unmap(range, &|_, _| true)
        });
        // From all of them, also when one host refuses.
        unmapped.fold(Ok(()), io::Result::and)
    }

    /// `frames`, and at their ends the whole of a huge folio: nobody maps any of it while a part is zeroed.
    fn reached_by(&self, frames: &Range<Pfn>) -> Range<Pfn> {
        let is_huge =
            |frame: Pfn| self.folios().find(frame.index()).is_some_and(|f| f.size() == PageSize::Huge);
        let last = Pfn::from_bits(frames.end.bits() - 1);
        let start = if is_huge(frames.start) { frames.start.block() } else { frames.start };
        let end = if is_huge(last) { last.block().plus(BLOCK_PAGES) } else { frames.end };
        start..end
    }

    /// Frees the folios that have frames in `frames`, which nobody maps, and zeroes the parts of those that reach beyond;
    /// both are `changed`.
    fn free_in(&self, frames: &Range<Pfn>, changed: &mut Vec<Range<Pfn>>) -> io::Result<Discarded> {
        let mut discarded = Discarded::default();
        let mut zeroed = Ok(());
        for folio in self.folios().in_use(frames.start.index()..frames.end.index()) {
            let all = self.frames_of(folio.index(), folio.size());
            let part = all.start.max(frames.start)..all.end.min(frames.end);
            let bytes = (part.end.index() - part.start.index()) * PAGE_SIZE;
            let Some(folio) = self.freeze(folio) else {
                discarded.pinned_bytes += bytes;
                continue;
            };
            match changed.last_mut() {
                Some(last) if last.end == part.start => last.end = part.end,
                _ => changed.push(part.clone()),
            }
            if part == all {
                self.free(folio);
            } else {
                discarded.zeroed_bytes += bytes;
                zeroed = zeroed.and(self.zero_part_of(folio, &part));
            }
        }
        let bytes = (frames.end.index() - frames.start.index()) * PAGE_SIZE;
        discarded.freed_bytes = bytes - discarded.zeroed_bytes - discarded.pinned_bytes;
        zeroed.map(|()| discarded)
    }

    /// `folio`, for this thread alone, if nobody but this object has a reference to it.
    fn freeze<'f>(&self, folio: FolioBorrow<'f>) -> Option<ExclusiveFolio<'f>> {
        let looked = planted::is(Bug::LookThenFree) && folio.references() == self.own_references();
        let expected = if looked { folio.references() } else { self.own_references() };
        folio.adopt().freeze(expected).map_err(FolioRef::leak).ok()
    }

    /// Zeroes `part` of the huge `folio`, and frees it if by now all of it was removed and is zeros.
    fn zero_part_of(&self, folio: ExclusiveFolio<'_>, part: &Range<Pfn>) -> io::Result<()> {
        let all = self.frames_of(folio.index(), folio.size());
        // Not what the filler supplied any more.
        folio.set_dirty();
        let zeroed = self.pool().zero(part.clone()).map_err(io::Error::other);
        let is_zero = zeroed.and_then(|()| {
            let noted = lock(&self.discarded_parts).note(part);
            if noted { self.is_zero(&all) } else { Ok(false) }
        });
        if let Ok(true) = is_zero {
            self.free(folio);
        } else {
            folio.unfreeze(1).leak();
        }
        is_zero.map(drop)
    }

    /// As [`Mm::shrink`], for all address spaces at once.
    pub(super) fn shrink(&self, want_bytes: u64) -> Shrunk {
        let mut shrunk = Shrunk::default();
        let Some(removals) = self.removals() else { return shrunk };
        let Range { start, end } = self.stretch().range();
        let hand = start.plus(removals.hand.get());
        for (mut next, end) in [(hand, end), (start, hand)] {
            while let Some(folio) = self.folios().in_use(next.index()..end.index()).next() {
                let block = self.frames_of(folio.index(), PageSize::Base).start.block();
                if shrunk.freed_bytes >= want_bytes {
                    removals.hand.set(block.index() - start.index());
                    return shrunk;
                }
                next = block.plus(BLOCK_PAGES);
                shrunk.add(self.shrink_block(removals, &(block..next)));
            }
        }
        shrunk
    }

    /// Takes the folios of one block away that nobody would miss.
    fn shrink_block(&self, removals: &Removals, block: &Range<Pfn>) -> Shrunk {
        let mut shrunk = Shrunk::default();
        let Some(_alone) = try_lock(&removals.alone) else {
            shrunk.busy_bytes = (block.end.index() - block.start.index()) * PAGE_SIZE;
            return shrunk;
        };
        let looked_at = self.folios().in_use(block.start.index()..block.end.index());
        let mut spare: Vec<_> = looked_at.filter(|folio| self.look_at(*folio, &mut shrunk)).collect();
        if spare.is_empty() {
            return shrunk;
        }
        let closed = removals.close(block.clone());
        match self.unmap_spare(block, &mut spare, &mut shrunk) {
            Ok(()) => self.free_spare(&spare, &mut shrunk),
            Err(error) => {
                log::debug!("no spare frame of {block:?} is taken: {error}");
                shrunk.busy_bytes += spare.iter().map(|folio| folio.size().bytes()).sum::<u64>();
            }
        }
        drop(closed);
        self.wake_closed(block);
        shrunk
    }

    /// Takes the entries of `spare`, all of one block, away from everybody. What somebody would miss is counted, and is
    /// spare no more.
    fn unmap_spare(
        &self,
        block: &Range<Pfn>,
        spare: &mut Vec<FolioBorrow<'_>>,
        shrunk: &mut Shrunk,
    ) -> Result<(), UnmapError> {
        let users = self.range_of(block).and_then(|shown| Users::of(self.mapping(), shown));
        let users = users.ok_or(UnmapError::Ending)?;
        for (mm, guest) in &users.all {
            let missed = mm.page_table().entries(*guest).filter(|&(gfn, entry)| mm.would_miss(gfn, entry));
            for (gfn, _) in missed {
                if let Some(at) = position(spare, mm.frame(gfn)) {
                    shrunk.needed_bytes += spare.remove(at).size().bytes();
                }
            }
        }
        let goes =
            |mm: &Mm, gfn, entry| position(spare, mm.frame(gfn)).is_some() && !mm.would_miss(gfn, entry);
        users.all.iter().filter(|_| !spare.is_empty()).try_for_each(|(mm, guest)| {
            let clear = Invalidation::new(*guest, Event::Clear);
            let _announced = mm.owner().invalidate_range_start_nonblock(&users.windows, clear)?;
            Ok(mm.unmap(*guest, &|gfn, entry| goes(mm, gfn, entry))?)
        })
    }

    /// Wakes whoever was left alone while `block` was closed, of those who do not end.
    fn wake_closed(&self, block: &Range<Pfn>) {
        if let Err(error) = self.wake(block) {
            log::error!("whoever waits for a page of {block:?} was not woken: {error}");
        }
    }

    /// Frees those of `spare`, which nobody maps any more, that still nobody would miss.
    fn free_spare(&self, spare: &[FolioBorrow<'_>], shrunk: &mut Shrunk) {
        for &folio in spare {
            let bytes = folio.size().bytes();
            match self.freeze(folio) {
                None => shrunk.pinned_bytes += bytes,
                Some(folio) if self.is_spare(&folio) => {
                    self.free(folio);
                    shrunk.freed_bytes += bytes;
                }
                Some(folio) => {
                    folio.unfreeze(1).leak();
                    shrunk.needed_bytes += bytes;
                }
            }
        }
    }

    /// Whether `folio` could go as far as one can see while it is mapped; what could not is counted.
    fn look_at(&self, folio: FolioBorrow<'_>, shrunk: &mut Shrunk) -> bool {
        if folio.references() != folio.total_mapcount() + self.own_references() {
            shrunk.pinned_bytes += folio.size().bytes();
            return false;
        }
        let spare = self.is_spare(&folio);
        if !spare {
            shrunk.needed_bytes += folio.size().bytes();
        }
        spare
    }

    /// Whether the content can be had again. True for as long as nobody writes it.
    fn is_spare(&self, folio: &FolioBorrow<'_>) -> bool {
        if self.filler().is_some() {
            !folio.is_dirty()
        } else {
            self.is_zero(&self.frames_of(folio.index(), folio.size())).unwrap_or(false)
        }
    }

    /// The whole blocks around `frames`, as far as it has them.
    fn blocks_around(&self, frames: &Range<Pfn>) -> Range<Pfn> {
        let last = frames.end.index().next_multiple_of(BLOCK_PAGES);
        frames.start.block()..Pfn::new(frames.end.pool(), last).min(self.stretch().range().end)
    }
}

/// Where in `folios`, which are in order, the folio of `frame` is.
fn position(folios: &[FolioBorrow<'_>], frame: Pfn) -> Option<usize> {
    let behind = folios.partition_point(|folio| folio.index() <= frame.index());
    let at = behind.checked_sub(1)?;
    (frame.index() < folios[at].index() + folios[at].size().pages()).then_some(at)
}
