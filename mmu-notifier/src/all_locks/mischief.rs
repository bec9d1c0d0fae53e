//! An address space whose walks do what an owner's should not.

use std::{cell::Cell, ops::ControlFlow};

use super::LockedSpace;
use crate::{
    InterruptToken, MmapLock, MmapWriteGuard,
    lock::{RawLock, ReverseMap, Vma},
    testing::LockedVmas,
};

/// A space of which something happens when its walks, counted together, have shown so many locks.
#[derive(Debug)]
pub(super) struct Mischievous<'a> {
    space: &'a LockedVmas,
    at: usize,
    mischief: Mischief<'a>,
    shown: Cell<usize>,
}

/// What may happen in the middle of a walk.
#[derive(Debug)]
pub(super) enum Mischief<'a> {
    Interrupt(&'a InterruptToken),
    Panic,
    /// From then on shows nothing.
    ShowNothing,
    /// Goes on when told to stop.
    InterruptAndGoOn(&'a InterruptToken),
}

impl<'a> Mischievous<'a> {
    pub(super) fn new(space: &'a LockedVmas, at: usize, mischief: Mischief<'a>) -> Self {
        Self { space, at, mischief, shown: Cell::new(0) }
    }

    fn show<C>(
        &self,
        lock: &RawLock<C>,
        visit: &mut dyn FnMut(&RawLock<C>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let shown = self.shown.replace(self.shown.get() + 1);
        match self.mischief {
            Mischief::Interrupt(token) if shown == self.at => token.interrupt(),
            Mischief::Panic if shown == self.at => panic!("in the middle of a walk"),
            Mischief::ShowNothing if shown >= self.at => return ControlFlow::Continue(()),
            Mischief::InterruptAndGoOn(token) if shown >= self.at => {
                token.interrupt();
                let _ = visit(lock);
                return ControlFlow::Continue(());
            }
            _ => {}
        }
        visit(lock)
    }
}

impl LockedSpace for Mischievous<'_> {
    type Vmas = ();

    fn mmap_lock(&self) -> &MmapLock {
        self.space.mmap_lock()
    }

    fn vma_locks(
        &self,
        mmap: &MmapWriteGuard<'_>,
        visit: &mut dyn FnMut(&RawLock<Vma>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.space.vma_locks(mmap, &mut |lock| self.show(lock, visit))
    }

    fn rmap_locks(
        &self,
        mmap: &MmapWriteGuard<'_>,
        visit: &mut dyn FnMut(&RawLock<ReverseMap>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.space.rmap_locks(mmap, &mut |lock| self.show(lock, visit))
    }
}
