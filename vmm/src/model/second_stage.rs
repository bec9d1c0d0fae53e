//! The second stage: what a vCPU's access does.

use std::sync::Arc;

use guest_mem::{FaultError, Gfn, Mm, PageSize, Pfn};
use mmu_notifier::{
    AddressRange, GateWriteGuard, RegisterError, SubscriberId,
    sync::{Tally, thread},
};

use super::{
    check::{Stale, check},
    entry::{Leaf, Level},
    table::Table,
    translations::{Held, Translations},
};
use crate::report::Mapped;

/// Translations of the guest-physical addresses of an [`Mm`], made at faults and dropped when the Mm announces that it changes
/// them.
///
/// Threads share it as the vCPUs of one VM do.
#[derive(Debug)]
pub struct SecondStage {
    translations: Arc<Translations>,
    id: SubscriberId,
    largest: Level,
    counters: Counters,
    mm: Arc<Mm>,
}

/// How an access found its page, while it has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The frame behind the address.
    pub frame: Pfn,
    /// The translation.
    pub leaf: Leaf,
    /// Whether this access installed it.
    pub installed: bool,
}

/// Why there is no second stage.
#[derive(Debug, thiserror::Error)]
pub enum SecondStageError {
    /// Four levels do not reach that far.
    #[error(
        "guest RAM at {range} ends above the {bits} bits that four levels translate; place it lower",
        bits = Table::ADDRESS_BITS
    )]
    BeyondTable {
        /// The range.
        range: AddressRange,
    },
    /// The notifier refused.
    #[error("the second stage cannot subscribe to the memory manager's changes")]
    Register(#[from] RegisterError),
}

/// Why an access did not come to its page.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The fault was not resolved.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// The address space has ended.
    #[error("the address space has ended; no access is translated any more")]
    Released,
}

/// How many faults were taken, and how they ended. `taken` is the sum of the others and of faults that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Accesses that found no translation, or one that forbids the write; each retry is one more.
    pub taken: u64,
    /// Ended with a translation installed.
    pub fixed: u64,
    /// Found that another had installed it meanwhile.
    pub spurious: u64,
    /// Lost a race with an invalidation, or with another fault on the page, and started over.
    pub retries: u64,
}

/// What was installed for an access, and the lock that keeps it.
type Installed<'a> = (GateWriteGuard<'a, Held>, Access);

#[derive(Debug, Default)]
struct Counters {
    taken: Tally,
    fixed: Tally,
    spurious: Tally,
    retries: Tally,
}

impl SecondStage {
    /// A second stage of `mm` that holds nothing yet; leaves are as large as the Mm's entries.
    ///
    /// # Errors
    /// [`SecondStageError`].
    pub fn new(mm: &Arc<Mm>) -> Result<Self, SecondStageError> {
        Self::with_leaves(mm, Level::G1)
    }

    /// The same with leaves of at most `largest`, as KVM has them where huge ones are forbidden.
    ///
    /// # Errors
    /// [`SecondStageError`].
    pub fn with_leaves(mm: &Arc<Mm>, largest: Level) -> Result<Self, SecondStageError> {
        let range = mm.range();
        if range.end() > 1 << Table::ADDRESS_BITS {
            return Err(SecondStageError::BeyondTable { range });
        }
        let translations = Arc::new(Translations::new("software second stage"));
        let id = mm.owner().register(Arc::clone(&translations) as Arc<_>)?;
        Ok(Self { translations, id, largest, counters: Counters::default(), mm: Arc::clone(mm) })
    }

    /// What it translates to.
    #[must_use]
    pub const fn mm(&self) -> &Arc<Mm> {
        &self.mm
    }

    /// An access of a vCPU to the byte at the guest-physical `address`.
    ///
    /// # Errors
    /// [`AccessError`].
    pub fn access(&self, address: u64, write: bool) -> Result<Access, AccessError> {
        self.access_with(address, write, |access| access)
    }

    /// The same, and calls `use_page` with what was found: as long as it runs, the frame stays the page's. It must neither
    /// access nor change the address space.
    ///
    /// # Errors
    /// [`AccessError`]; `use_page` was not called.
    pub fn access_with<R>(
        &self,
        address: u64,
        write: bool,
        use_page: impl FnOnce(Access) -> R,
    ) -> Result<R, AccessError> {
        loop {
            let held = self.translations.gate.read();
            if held.released {
                return Err(AccessError::Released);
            }
            if let Some(leaf) = held.table.walk(address, write) {
                return Ok(use_page(Access { frame: leaf.frame(address), leaf, installed: false }));
            }
            drop(held);
            if let Some((_held, access)) = self.fault(address, write)? {
                return Ok(use_page(access));
            }
            self.counters.retries.add(1);
            thread::yield_now();
        }
    }

    /// Has the Mm resolve a fault and installs what it says. `None` if that is not true any more: start over.
    fn fault(&self, address: u64, write: bool) -> Result<Option<Installed<'_>>, AccessError> {
        self.counters.taken.add(1);
        let gfn = Gfn::of(address);
        let ticket = self.translations.gate.enter();
        self.mm.touch(address, write)?;
        let entry = self.mm.page_table().walk(gfn);
        if !entry.is_present() || (write && !entry.is_writable()) {
            return Ok(None);
        }
        let mut held = self.translations.gate.write();
        if held.released {
            return Err(AccessError::Released);
        }
        if held.retry(ticket, address) {
            return Ok(None);
        }
        if let Some(leaf) = held.table.walk(address, write) {
            self.counters.spurious.add(1);
            let access = Access { frame: leaf.frame(address), leaf, installed: false };
            return Ok(Some((held, access)));
        }
        let leaf = match entry.size() {
            PageSize::Huge if self.largest >= Level::M2 => {
                Leaf::new(entry.pfn(), Level::M2, entry.is_writable())
            }
            _ => Leaf::new(entry.pfn_of(gfn), Level::K4, entry.is_writable()),
        };
        let leaf = Leaf { accessed: true, dirty: write, ..leaf };
        held.table.install(address, &leaf);
        self.counters.fixed.add(1);
        Ok(Some((held, Access { frame: leaf.frame(address), leaf, installed: true })))
    }

    /// The translation of `address` that is held now, if one is. No access: it marks nothing.
    #[must_use]
    pub fn translation(&self, address: u64) -> Option<Leaf> {
        self.translations.gate.read().table.find(address)
    }

    /// Whether nothing of `range` is translated now.
    #[must_use]
    pub fn holds_nothing_of(&self, range: AddressRange) -> bool {
        let mut nothing = true;
        self.translations.gate.read().table.visit(range, &mut |_, _, _| {
            nothing = false;
            false
        });
        nothing
    }

    /// Compares every translation that is held with the Mm. It may be called at any time, from any thread: accesses go on
    /// meanwhile, faults and invalidations wait.
    ///
    /// # Errors
    /// [`Stale`]: the first translation, in order of address, that the Mm does not hold.
    pub fn check(&self) -> Result<(), Stale> {
        let mut result = Ok(());
        self.translations.gate.read().table.visit(AddressRange::ALL, &mut |start, _, leaf| {
            result = check(&self.mm, start, leaf);
            result.is_ok()
        });
        result
    }

    /// What it holds, in pages.
    #[must_use]
    pub fn mapped(&self) -> Mapped {
        self.translations.gate.read().table.mapped()
    }

    /// Bytes of its tables.
    #[must_use]
    pub fn table_bytes(&self) -> u64 {
        self.translations.gate.read().table.tables() as u64 * Level::K4.bytes()
    }

    /// The faults that it took.
    #[must_use]
    pub fn faults(&self) -> FaultCounts {
        let Counters { taken, fixed, spurious, retries } = &self.counters;
        FaultCounts {
            taken: taken.get(),
            fixed: fixed.get(),
            spurious: spurious.get(),
            retries: retries.get(),
        }
    }
}

impl Drop for SecondStage {
    fn drop(&mut self) {
        if let Err(error) = self.mm.owner().unregister(self.id) {
            log::error!("a second stage stays subscribed: {error}");
        }
    }
}
