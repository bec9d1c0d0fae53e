//! In-flight marks: which operations of an owner are running now.
//!
//! Every walk of the subscriber list, an invalidation above all, holds a [`Mark`] from before it reads the list until
//! it is done with it. Marks live in slots, one word each: idle, or busy with a stamp that this word never had
//! before. So whoever looks can tell *these* operations from later ones, and wait for exactly these.
//!
//! ```text
//!   an invalidation                          registration
//!   mark a slot busy                         publish the new list
//!   full fence                               full fence
//!   read the list                            look at every slot
//! ```
//! Not both can miss the other: either the invalidation reads the new list, or registration finds its mark.
//!
//! A thread starts at the slot of its stripe, and at another one when it meets somebody there, so threads do not write
//! each other's cache lines. When every slot of a block is busy a further block is chained on: an allocation, once.
//! Blocks live until the owner does.

use std::{marker::PhantomData, num::NonZeroUsize};

use crate::{
    AddressRange,
    counters::{self, SlotTallies},
    once::OnceBox,
    parking::Parking,
    planted::{self, Bug},
    sync::{
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
        },
        fence_after_rmw, leave_stripe, stripe, thread_id,
    },
};

/// Slots in a block: a power of two.
const SLOTS: usize = if cfg!(loom) { 2 } else { 16 };

/// The slot is in use.
const BUSY: u64 = 1;
/// Somebody sleeps until this word changes.
const WAITED: u64 = 2;
/// Where the holder's [`thread_id`] begins: 32 bits, zero when idle.
const THREAD_SHIFT: u32 = 2;
/// What is added to a word to get the next stamp: the 30 bits above the thread.
///
/// Stamps come round. Whoever looked at one operation and meets the same stamp and thread a billion operations later
/// takes the later one for it, and waits for that: too long, never too short.
const STAMP: u64 = 1 << 34;

/// One operation's place. Aligned to two cache lines, which processors like to fetch in pairs; what every operation
/// touches is in the first line.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct Slot {
    /// `stamp | thread | WAITED | BUSY`. Idle: the stamp alone.
    word: AtomicU64,
    /// The holder's range, `[start, end)`, if `range_of` is the word that the slot has now.
    start: AtomicU64,
    end: AtomicU64,
    range_of: AtomicU64,
    /// The serial number of the subscription whose callback runs, shifted left by two, and `WAITED`; or zero.
    calling: AtomicU64,
    /// Where those sleep who wait for `word` or `calling`.
    parking: Parking,
    /// Written by the holder alone.
    pub(crate) tallies: SlotTallies,
}

#[derive(Debug, Default)]
struct Block {
    slots: [Slot; SLOTS],
    next: OnceBox<Block>,
}

/// All marks of one owner.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    first: Box<Block>,
}

/// The calling thread is in the middle of an operation; dropping it ends the operation.
#[derive(Debug)]
pub(crate) struct Mark<'a> {
    slot: &'a Slot,
    /// Busy, not waited for.
    word: u64,
    /// Slots know their holder by its thread.
    on_this_thread: PhantomData<*const ()>,
}

/// The slot of a mark, for as long as the mark is held: what its holder may do there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldSlot<'m> {
    slot: &'m Slot,
    on_this_thread: PhantomData<*const ()>,
}

/// An operation that was in flight when somebody looked: a slot's number, and the word it had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    slot: usize,
    word: u64,
}

impl Marks {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Marks the calling thread as being in the middle of an operation.
    #[inline]
    pub(crate) fn mark(&self) -> Mark<'_> {
        let thread = thread_id();
        let slot = &self.first.slots[stripe(thread, SLOTS)];
        slot.claim(thread).unwrap_or_else(|| self.mark_elsewhere(thread))
    }

    /// As [`mark`](Self::mark), for a thread whose own slot is busy.
    #[cold]
    fn mark_elsewhere(&self, thread: NonZeroUsize) -> Mark<'_> {
        let mut block = &*self.first;
        let home = &block.slots[stripe(thread, SLOTS)];
        // Unless the slot is busy with a mark of our own, another thread is here.
        if !home.is_held_by(thread) {
            leave_stripe();
        }
        loop {
            let (before, from) = block.slots.split_at(stripe(thread, SLOTS));
            if let Some(mark) = from.iter().chain(before).find_map(|slot| slot.claim(thread)) {
                return mark;
            }
            // Reading or setting `next` comes before the claim's fence, so whoever finds the list old by us finds the
            // block too.
            block = block.next.get_or_init(Block::default);
        }
    }

    /// Every operation in flight: complete for those whose fence is before the caller's.
    pub(crate) fn in_flight(&self) -> Vec<InFlight> {
        let busy = |(number, slot): (usize, &Slot)| {
            // Acquire: what an operation that is over did is seen, pairs with the end of the mark.
            let word = slot.word.load(Acquire) & !WAITED;
            (word & BUSY != 0).then_some(InFlight { slot: number, word })
        };
        self.slots().enumerate().filter_map(busy).collect()
    }

    /// Whether the calling thread holds a mark.
    pub(crate) fn held_by_this_thread(&self) -> bool {
        let thread = thread_id();
        self.slots().any(|slot| slot.is_held_by(thread))
    }

    /// Whether `operation` is over; if so, what it did is seen.
    pub(crate) fn is_over(&self, operation: InFlight) -> bool {
        self.slot(operation)
            // Pairs with the end of the mark.
            .is_none_or(|slot| slot.word.load(Acquire) & !WAITED != operation.word)
    }

    /// Whether `operation` is known to be on a range that has nothing in common with `range`.
    pub(crate) fn is_disjoint(&self, operation: InFlight, range: AddressRange) -> bool {
        self.slot(operation).is_some_and(|slot| {
            // Acquire, each: if the slot went to another operation meanwhile, then ours is over, and what it did is
            // seen. If not, these are its ends. Either way it need not be waited for when this says so.
            (slot.range_of.load(Acquire) == operation.word || planted::is(Bug::RangeOfAnother))
                && (slot.end.load(Acquire) <= range.start() || range.end() <= slot.start.load(Acquire))
        })
    }

    /// Sleeps until `operation` is over; what it did is seen then.
    pub(crate) fn wait(&self, operation: InFlight) {
        let Some(slot) = self.slot(operation) else {
            return;
        };
        slot.parking.wait_while(|| set_waited(&slot.word, operation.word));
    }

    /// Sleeps until no callback of the subscription `serial` runs. A fence of the caller's comes before, and before
    /// that the store that keeps new callbacks from beginning.
    pub(crate) fn wait_for_callbacks(&self, serial: u64) {
        for slot in self.slots() {
            if slot.calling.load(Acquire) & !WAITED == calling(serial) {
                slot.parking.wait_while(|| set_waited(&slot.calling, calling(serial)));
            }
        }
    }

    /// Every slot there is.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        let blocks = std::iter::successors(Some(&*self.first), |block| block.next.get());
        blocks.flat_map(|block| &block.slots)
    }

    fn slot(&self, operation: InFlight) -> Option<&Slot> {
        self.slots().nth(operation.slot)
    }
}

impl Slot {
    /// Whether `thread`, which asks, holds the mark.
    fn is_held_by(&self, thread: NonZeroUsize) -> bool {
        // Relaxed: a thread sees its own stores, and whose another mark is does not matter.
        self.word.load(Relaxed) & (STAMP - 1) & !WAITED == held_by(thread)
    }

    /// Makes an idle slot busy for `thread`, and fences.
    #[inline]
    fn claim(&self, thread: NonZeroUsize) -> Option<Mark<'_>> {
        let idle = self.word.load(Relaxed);
        if idle & BUSY != 0 {
            return None;
        }
        let word = idle | held_by(thread);
        if planted::is(Bug::MarkWithoutFence) {
            self.word.compare_exchange(idle, word, AcqRel, Relaxed).ok()?;
        } else {
            // Acquire: the tallies are ours now, pairs with the end of the previous holder's mark.
            self.word.compare_exchange(idle, word, SeqCst, Relaxed).ok()?;
            // Pairs with the fence behind the publication of a list (`Rcu::replace`).
            fence_after_rmw();
        }
        Some(Mark { slot: self, word, on_this_thread: PhantomData })
    }

    #[cold]
    fn start_clock(&self) {
        self.tallies.started_ns.set(counters::now());
    }

    #[cold]
    fn wake(&self) {
        if !planted::is(Bug::LostWakeup) {
            self.parking.wake();
        }
    }
}

impl Mark<'_> {
    /// Says which range this operation is on, so that those who have nothing to do with it need not wait for it.
    #[inline]
    pub(crate) fn set_range(&self, range: AddressRange) {
        // Release, each: pairs with `is_disjoint`.
        self.slot.start.store(range.start(), Release);
        self.slot.end.store(range.end(), Release);
        self.slot.range_of.store(self.word, Release);
    }

    /// Where the holder of this mark writes what only it may write.
    #[inline]
    pub(crate) fn slot(&self) -> HeldSlot<'_> {
        HeldSlot { slot: self.slot, on_this_thread: PhantomData }
    }
}

impl<'m> HeldSlot<'m> {
    /// The counters that the holder of this mark may write.
    #[inline]
    pub(crate) fn tallies(self) -> &'m SlotTallies {
        &self.slot.tallies
    }

    /// Notes when the operation started.
    #[inline]
    pub(crate) fn start_clock(self) {
        self.slot.start_clock();
    }

    /// Whether [`start_clock`](Self::start_clock) was called.
    #[inline]
    pub(crate) fn is_timed(self) -> bool {
        self.tallies().started_ns.get() != 0
    }

    /// Tallies the time since [`start_clock`](Self::start_clock), if that was called.
    pub(crate) fn stop_clock(self) {
        let started = self.tallies().started_ns.get();
        if started != 0 {
            let took = counters::now().saturating_sub(started);
            self.tallies().longest_ns.raise_exclusive(took);
            self.tallies().started_ns.set(0);
        }
    }

    /// Announces that a callback of the subscription `serial` is about to run, and fences.
    #[inline]
    pub(crate) fn begin_call(self, serial: u64) {
        if planted::is(Bug::CallWithoutFence) {
            self.slot.calling.store(calling(serial), Release);
            return;
        }
        self.slot.calling.swap(calling(serial), SeqCst);
        // Pairs with the fence in `Entry::close`: either that sees this call, or this call sees it is closed.
        fence_after_rmw();
    }

    /// The callback has returned.
    #[inline]
    pub(crate) fn end_call(self) {
        // Release: pairs with `wait_for_callbacks`.
        if self.slot.calling.swap(0, AcqRel) & WAITED != 0 {
            self.slot.wake();
        }
    }
}

impl Drop for Mark<'_> {
    #[inline]
    fn drop(&mut self) {
        let idle = (self.word & !(STAMP - 1)).wrapping_add(STAMP);
        // Release: whoever sees the slot idle sees all that this operation did; pairs with `in_flight`, `is_over`,
        // `wait` and the next `claim`.
        if self.slot.word.swap(idle, AcqRel) & WAITED != 0 {
            self.slot.wake();
        }
    }
}

/// What a word says of its holder: busy, and whose.
const fn held_by(thread: NonZeroUsize) -> u64 {
    ((thread.get() as u64) << THREAD_SHIFT) & (STAMP - 1) | BUSY
}

/// A subscription's serial number as it stands in `Slot::calling`.
const fn calling(serial: u64) -> u64 {
    serial << 2
}

/// Whether `word` is still `value`; if so, its waiting bit is set now.
fn set_waited(word: &AtomicU64, value: u64) -> bool {
    match word.compare_exchange(value, value | WAITED, AcqRel, Acquire) {
        Ok(_) => true,
        Err(now) => now == value | WAITED,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn more_marks_than_slots_chain_a_block() {
        let marks = Marks::new();

        let held: Vec<_> = (0..=SLOTS).map(|_| marks.mark()).collect();

        assert_eq!(marks.in_flight().len(), SLOTS + 1);
        assert_eq!(marks.slots().count(), 2 * SLOTS);
        drop(held);
        assert!(marks.in_flight().is_empty());
        assert!(!marks.held_by_this_thread());
    }

    #[test]
    fn a_slot_used_again_is_another_operation() {
        let marks = Marks::new();
        let first = marks.mark();
        let seen = marks.in_flight()[0];
        assert!(!marks.is_over(seen));

        drop(first);
        let _second = marks.mark();

        assert!(marks.is_over(seen));
    }

    #[test]
    fn only_a_range_that_was_named_is_disjoint() {
        let range = |page: u64| AddressRange::new(page * 4096, 4096).unwrap();
        let marks = Marks::new();
        let mark = marks.mark();
        let seen = marks.in_flight()[0];
        assert!(!marks.is_disjoint(seen, range(7)));

        mark.set_range(range(3));

        assert!(marks.is_disjoint(seen, range(7)));
        assert!(!marks.is_disjoint(seen, range(3)));
    }
}
