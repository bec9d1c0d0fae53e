//! The translations that a second stage holds, as the subscriber that is told when they end.

use mmu_notifier::{AddressRange, Gate, GateWriteGuard, Invalidation, Subscriber, WouldBlock};

use super::table::Table;

/// What is held.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) table: Table,
    /// The address space ends, or this subscriber left it: nothing is kept any more.
    pub(super) released: bool,
}

/// Translations behind a gate.
#[derive(Debug)]
pub(super) struct Translations {
    name: String,
    /// A leaf of the lock order. Held for reading by whoever uses a translation.
    pub(super) gate: Gate<Held>,
}

impl Translations {
    pub(super) fn new(name: &str) -> Self {
        let held = Held { table: Table::new(), released: false };
        Self { name: name.to_owned(), gate: Gate::new(held) }
    }

    fn locked(&self, invalidation: &Invalidation) -> Result<GateWriteGuard<'_, Held>, WouldBlock> {
        if let Some(held) = self.gate.try_write() {
            return Ok(held);
        }
        invalidation.may_block()?;
        Ok(self.gate.write())
    }
}

impl Subscriber for Translations {
    fn name(&self) -> &str {
        &self.name
    }

    fn invalidate_range_start(&self, invalidation: &Invalidation) -> Result<(), WouldBlock> {
        let mut held = self.locked(invalidation)?;
        held.start(invalidation.range());
        held.table.drop_range(invalidation.range());
        Ok(())
    }

    fn invalidate_range_end(&self, _: &Invalidation) {
        self.gate.write().end();
    }

    fn release(&self) {
        let mut held = self.gate.write();
        held.table.clear();
        held.released = true;
    }

    fn clear_flush_young(&self, range: AddressRange) -> bool {
        self.clear_young(range)
    }

    fn clear_young(&self, range: AddressRange) -> bool {
        let mut young = false;
        self.gate.read().table.visit(range, &mut |_, cell, _| {
            young |= cell.clear_accessed();
            true
        });
        young
    }

    fn test_young(&self, address: u64) -> bool {
        self.gate.read().table.find(address).is_some_and(|leaf| leaf.accessed)
    }
}
