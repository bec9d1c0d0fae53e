//! A pointer that is read without a lock and replaced without waiting: its readers are the in-flight marks.
//!
//! **Guarantee.** What a [`Reading`] shows stays valid as long as the reading lives. A value that was replaced is
//! freed when every mark held at the replacement has ended. Nobody waits for that: it is looked after at later
//! replacements, and when the [`Rcu`] goes.
#![expect(unsafe_code, reason = "a pointer whose reads no lock covers")]

use std::ptr;

use crate::{
    marks::{HeldSlot, InFlight, Mark, Marks},
    planted::{self, Bug},
    sync::{
        Mutex,
        atomic::{
            AtomicPtr,
            Ordering::{Acquire, SeqCst},
        },
        cell::UnsafeCell,
        fence_after_rmw, lock,
    },
};

/// A value that is published as a whole, or nothing.
#[derive(Debug)]
pub(crate) struct Rcu<T> {
    /// Null, or from `Box::into_raw` and owned by this `Rcu`.
    current: AtomicPtr<Node<T>>,
    pub(crate) marks: Marks,
    /// What was current and may still be read. Also keeps replacements one after the other. A leaf: nothing is taken
    /// and no foreign code runs under it.
    replaced: Mutex<Vec<Replaced<T>>>,
}

/// The cell lets loom see the reads and the freeing.
type Node<T> = UnsafeCell<T>;

/// What an [`Rcu`] held after the mark was taken, and the mark that keeps it.
#[derive(Debug)]
pub(crate) struct Reading<'a, T> {
    pub(crate) mark: Mark<'a>,
    node: *const Node<T>,
    #[cfg(all(test, loom))]
    rcu: &'a Rcu<T>,
}

/// A value that was replaced.
#[derive(Debug)]
struct Replaced<T> {
    /// From `Box::into_raw`, owned, and in no other place.
    node: *mut Node<T>,
    /// Whoever may still read it.
    readers: Vec<InFlight>,
}

/// What a replacement found.
#[derive(Debug)]
#[must_use = "the freed values run foreign code when they are dropped: drop them under no lock"]
pub(crate) struct Replacement<T> {
    /// Every mark whose holder may not have read the new value.
    pub(crate) in_flight: Vec<InFlight>,
    /// Earlier values that nobody reads any more.
    pub(crate) freed: Vec<T>,
}

// SAFETY: the pointers in it are owned, as boxes would be. `T: Sync` because readings on several threads share a value.
unsafe impl<T: Send + Sync> Send for Rcu<T> {}
// SAFETY: as above; `T: Send` because a value is freed by whichever thread replaces the next one.
unsafe impl<T: Send + Sync> Sync for Rcu<T> {}

impl<T> Rcu<T> {
    /// An `Rcu` that holds nothing.
    pub(crate) fn new() -> Self {
        Self {
            current: AtomicPtr::new(ptr::null_mut()),
            marks: Marks::new(),
            replaced: Mutex::new(Vec::new()),
        }
    }

    /// Marks the calling thread, and then reads the pointer: in this order, also when there is nothing to read.
    #[inline]
    pub(crate) fn read(&self) -> Reading<'_, T> {
        let early = planted::is(Bug::ReadBeforeMark).then(|| self.current.load(Acquire));
        let mark = self.marks.mark();
        // Acquire: the value is seen as it was published, pairs with the swap in `replace`.
        let node = early.unwrap_or_else(|| self.current.load(Acquire));
        Reading {
            mark,
            node,
            #[cfg(all(test, loom))]
            rcu: self,
        }
    }

    /// Publishes `value`.
    pub(crate) fn replace(&self, value: Option<T>) -> Replacement<T> {
        let mut replaced = lock(&self.replaced);
        let node = value.map_or(ptr::null_mut(), |value| Box::into_raw(Box::new(Node::new(value))));
        let early = planted::is(Bug::ScanBeforePublish).then(|| self.marks.in_flight());
        // Release, within SeqCst: pairs with the loads in `read`.
        let old = self.current.swap(node, SeqCst);
        // Pairs with the fence behind a claimed mark.
        fence_after_rmw();
        let in_flight = early.unwrap_or_else(|| self.marks.in_flight());
        if !old.is_null() {
            replaced.push(Replaced { node: old, readers: in_flight.clone() });
        }
        let unread = replaced.extract_if(.., |old| {
            old.readers.retain(|&reader| !self.marks.is_over(reader));
            old.readers.is_empty() || planted::is(Bug::FreeAtOnce)
        });
        let freed = unread.filter_map(|old| Self::free(old.node)).collect();
        Replacement { in_flight, freed }
    }

    /// Takes the value out of a node that is in `self` no more and that nobody reads.
    fn free(node: *mut Node<T>) -> Option<T> {
        if cfg!(loom) && std::thread::panicking() {
            // A model has found what it looked for: a second panic would end the process.
            return None;
        }
        if planted::is(Bug::FreeAtOnce) {
            // SAFETY: a node that this planted bug touches is never freed.
            unsafe { &*node }.with_mut(|_| ());
            return None;
        }
        // SAFETY: from `Box::into_raw`, and nobody else has it: it was taken out of `current` and `replaced`, and
        // every mark under which it could have been read has ended, which `is_over` acquired; or `self` goes.
        let node = unsafe { Box::from_raw(node) };
        // For loom, to see that this is after every read.
        node.with_mut(|_| ());
        Some(node.into_inner())
    }
}

impl<T> Drop for Rcu<T> {
    fn drop(&mut self) {
        // No reading is left: each borrows `self`.
        let replaced = std::mem::take(&mut *lock(&self.replaced));
        let current = self.current.swap(ptr::null_mut(), SeqCst);
        let nodes = replaced.into_iter().map(|old| old.node).chain((!current.is_null()).then_some(current));
        for node in nodes {
            drop(Self::free(node));
        }
    }
}

impl<T> Reading<'_, T> {
    /// What was published when the mark was taken, if anything.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        self.look_at(self.node)
    }

    /// The slot of the mark.
    #[inline]
    pub(crate) fn slot(&self) -> HeldSlot<'_> {
        self.mark.slot()
    }

    /// What is published now: never what the protocol wants, but what a planted bug does.
    #[inline]
    pub(crate) fn get_latest(&self) -> Option<&T> {
        #[cfg(all(test, loom))]
        return self.look_at(self.rcu.current.load(Acquire));
        #[cfg(not(all(test, loom)))]
        self.get()
    }

    #[inline]
    #[expect(clippy::unused_self, reason = "its borrow is what keeps the node")]
    fn look_at(&self, node: *const Node<T>) -> Option<&T> {
        // SAFETY: null, or not freed as long as our mark is held: it was current after the mark was taken (mark;
        // fence; read), so whoever replaced it (publish; fence; look at the marks) has our mark among its readers and
        // keeps it until that has ended, and the borrow of `self` ends before.
        let node = unsafe { node.as_ref() }?;
        // SAFETY: nothing writes to a published value before it is freed.
        Some(node.with(|value| unsafe { &*value }))
    }
}
