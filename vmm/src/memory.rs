//! All RAM of one microVM: one [`GuestRam`], or two around the hole below 4 GiB where devices are.
//!
//! ```text
//! 0                    3 GiB              4 GiB
//! |  low RAM           |  devices, APICs  |  high RAM, if there is more than 3 GiB
//! ```

use std::{
    os::fd::OwnedFd,
    sync::{Arc, atomic::AtomicBool},
};

use guest_mem::{
    Backing, ByteSize, CreateRamError, DiscardError, Discarded, GuestMemoryView, GuestRam, GuestRamConfig,
    ManagedConfig, Prefault, RamPin, RamPinError,
};
use mmu_notifier::AddressRange;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionCollectionError};

use crate::kvm::VmError;

/// Where low RAM ends at the latest, guest-physical: devices and interrupt controllers are from here up to
/// [`HIGH_RAM`].
pub const HOLE: u64 = 3 << 30;
/// Where RAM goes on that does not fit below the hole, guest-physical.
pub const HIGH_RAM: u64 = 4 << 30;

/// What RAM a microVM gets.
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// What /proc/PID/maps calls it.
    pub guest: String,
    /// How much.
    pub size: ByteSize,
    /// What backs it.
    pub backing: Backing,
    /// Populate it before the guest runs.
    pub prefault: Option<Prefault>,
    /// Take it from this NUMA node only.
    pub numa_node: Option<u32>,
    /// How it is run, if its backing is managed.
    pub managed: ManagedConfig,
}

/// All RAM of one microVM.
#[derive(Debug)]
pub struct Memory {
    /// By address; one or two.
    rams: Vec<Arc<GuestRam>>,
    view: GuestMemoryView,
}

/// Why the RAM of a microVM could not be made; nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum CreateMemoryError {
    /// KVM did not make the file that is to back it.
    #[error(transparent)]
    GuestMemfd(#[from] VmError),
    /// A part could not be made.
    #[error("cannot make the guest's RAM")]
    Ram(#[from] CreateRamError),
    /// The parts do not go together.
    #[error("vm-memory does not take the guest's RAM")]
    View(#[from] GuestRegionCollectionError),
}

/// Why a range could not be pinned or discarded: it is not RAM, or its RAM refused.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A part of it is not RAM.
    #[error("{range} is not all RAM of this guest")]
    NotRam {
        /// The range, in guest-physical bytes.
        range: AddressRange,
    },
    /// It could not be discarded.
    #[error(transparent)]
    Discard(#[from] DiscardError),
    /// It could not be pinned.
    #[error(transparent)]
    Pin(#[from] RamPinError),
}

impl MemoryConfig {
    /// RAM of `size` and `backing` for a guest called `vm`, populated by the guest's own touches.
    #[must_use]
    pub fn new(size: ByteSize, backing: Backing) -> Self {
        Self {
            guest: "vm".to_owned(),
            size,
            backing,
            prefault: None,
            numa_node: None,
            managed: ManagedConfig::default(),
        }
    }

    /// Where RAM of this size is, in guest-physical bytes: start and length of the low part, and of the high one.
    fn parts(&self) -> impl Iterator<Item = (u64, u64)> {
        let low = self.size.bytes().min(HOLE);
        [(0, low), (HIGH_RAM, self.size.bytes() - low)].into_iter().filter(|(_, len)| *len > 0)
    }
}

impl Memory {
    /// Makes the RAM that `config` asks for. `guest_memfd` makes a file of so many bytes, for the backing of that name;
    /// `interrupt` stops the making between its steps.
    ///
    /// # Errors
    /// [`CreateMemoryError`].
    pub fn create(
        config: &MemoryConfig,
        interrupt: Option<&Arc<AtomicBool>>,
        mut guest_memfd: impl FnMut(u64) -> Result<OwnedFd, VmError>,
    ) -> Result<Self, CreateMemoryError> {
        // As a whole first: a part of it might fit where all of it does not.
        config.backing.check_host(config.size).map_err(CreateRamError::from)?;
        let mut rams = Vec::with_capacity(2);
        for (number, (start, len)) in config.parts().enumerate() {
            let guest_memfd = match config.backing {
                Backing::GuestMemfd => Some(guest_memfd(len)?),
                _ => None,
            };
            rams.push(Arc::new(GuestRam::create(GuestRamConfig {
                size: ByteSize::new(len).unwrap_or(config.size),
                backing: config.backing.clone(),
                guest_base: GuestAddress(start),
                guest: config.guest.clone(),
                region: if number == 0 { "ram" } else { "ram-high" }.to_owned(),
                prefault: config.prefault,
                numa_node: config.numa_node,
                guest_memfd,
                managed: config.managed.clone(),
                interrupt: interrupt.map(Arc::clone),
            })?));
        }
        Ok(Self::of(rams)?)
    }

    /// The memory that `rams` are together, in the order of their addresses.
    ///
    /// # Errors
    /// What vm-memory has against it: no RAM at all, or some that overlap.
    pub fn of(rams: Vec<Arc<GuestRam>>) -> Result<Self, GuestRegionCollectionError> {
        let mut view = GuestMemoryView::new();
        for ram in &rams {
            for region in ram.view().iter() {
                let (_, region) = ram.view().remove_region(region.start_addr(), region.len())?;
                view = view.insert_region(region)?;
            }
        }
        if rams.is_empty() {
            Err(GuestRegionCollectionError::NoMemoryRegion)
        } else {
            Ok(Self { rams, view })
        }
    }

    /// All of it as vm-memory's traits see it. A clone keeps it mapped, and readable and writable, while it lives.
    #[must_use]
    pub const fn view(&self) -> &GuestMemoryView {
        &self.view
    }

    /// Its parts, by address. Whoever keeps translations registers with the [owner](GuestRam::owner) of each.
    #[must_use]
    pub fn rams(&self) -> &[Arc<GuestRam>] {
        &self.rams
    }

    /// How many bytes it has.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.rams.iter().map(|ram| ram.size().bytes()).sum()
    }

    /// Discards `range`, in guest-physical bytes, as [`GuestRam::discard`] does.
    ///
    /// # Errors
    /// [`MemoryError::NotRam`], before anything is done, or [`MemoryError::Discard`].
    pub fn discard(&self, range: AddressRange) -> Result<Discarded, MemoryError> {
        let mut all = Discarded::default();
        for (ram, part) in self.split(range)? {
            let done = ram.discard(part)?;
            all.freed_bytes += done.freed_bytes;
            all.zeroed_bytes += done.zeroed_bytes;
            all.pinned_bytes += done.pinned_bytes;
        }
        Ok(all)
    }

    /// Pins `range`, in guest-physical bytes, as [`GuestRam::pin`] does, for I/O that writes it (`write`) or only reads
    /// it. What is contiguous for the guest is contiguous in this process too.
    ///
    /// # Errors
    /// [`MemoryError::NotRam`] or [`MemoryError::Pin`]; nothing is pinned then.
    pub fn pin(&self, range: AddressRange, write: bool) -> Result<RamPin, MemoryError> {
        let ram = self.rams.iter().find(|ram| ram.range().covers(range));
        Ok(ram.ok_or(MemoryError::NotRam { range })?.pin(range, write)?)
    }

    /// The parts of `range`, each with the RAM it is in.
    ///
    /// # Errors
    /// [`MemoryError::NotRam`].
    pub(crate) fn split(&self, range: AddressRange) -> Result<Vec<(&GuestRam, AddressRange)>, MemoryError> {
        let mut parts = Vec::with_capacity(1);
        let mut next = range.start();
        for ram in &self.rams {
            let end = ram.range().end().min(range.end());
            if next < range.end() && ram.range().contains(next) {
                parts.extend(AddressRange::new(next, end - next).ok().map(|part| (&**ram, part)));
                next = end;
            }
        }
        if next == range.end() { Ok(parts) } else { Err(MemoryError::NotRam { range }) }
    }
}

#[cfg(test)]
mod tests {
    use mmu_notifier::PAGE_SIZE;
    use vm_memory::Bytes;

    use super::*;

    const G: u64 = 1 << 30;

    fn config(bytes: u64) -> MemoryConfig {
        MemoryConfig::new(ByteSize::new(bytes).unwrap(), Backing::Anonymous)
    }

    fn memory(bytes: u64) -> Memory {
        Memory::create(&config(bytes), None, |_| unreachable!("no guest_memfd is asked for")).unwrap()
    }

    fn range(start: u64, len: u64) -> AddressRange {
        AddressRange::new(start, len).unwrap()
    }

    #[test]
    fn ram_beyond_three_gibibytes_goes_above_the_hole() {
        let parts = |bytes| config(bytes).parts().collect::<Vec<_>>();

        assert_eq!(parts(G), [(0, G)]);
        assert_eq!(parts(3 * G), [(0, 3 * G)]);
        assert_eq!(parts(3 * G + PAGE_SIZE), [(0, 3 * G), (4 * G, PAGE_SIZE)]);
        assert_eq!(parts(8 * G), [(0, 3 * G), (4 * G, 5 * G)]);
    }

    #[test]
    fn the_view_shows_both_parts_and_nothing_between() {
        let memory = memory(4 * G);

        for address in [0, 3 * G - 1, 4 * G, 5 * G - 1] {
            memory.view().write_obj(7_u8, GuestAddress(address)).unwrap();
        }

        assert_eq!(memory.bytes(), 4 * G);
        assert!(memory.view().write_obj(7_u8, GuestAddress(3 * G)).is_err());
        assert!(memory.view().write_obj(7_u8, GuestAddress(5 * G)).is_err());
    }

    #[test]
    fn the_view_keeps_the_memory_alive() {
        let memory = memory(4 * G);
        let view = memory.view().clone();

        drop(memory);

        view.write_obj(7_u8, GuestAddress(4 * G)).unwrap();
        assert_eq!(view.read_obj::<u8>(GuestAddress(4 * G)).unwrap(), 7);
    }

    #[test]
    fn a_discard_that_reaches_into_the_hole_does_nothing() {
        let memory = memory(4 * G);
        let last = GuestAddress(3 * G - PAGE_SIZE);
        memory.view().write_obj(7_u8, last).unwrap();

        let refused = memory.discard(range(last.0, 2 * PAGE_SIZE));

        assert!(matches!(refused, Err(MemoryError::NotRam { .. })), "{refused:?}");
        assert_eq!(memory.view().read_obj::<u8>(last).unwrap(), 7);
        assert_eq!(memory.discard(range(last.0, PAGE_SIZE)).unwrap().freed_bytes, PAGE_SIZE);
        assert_eq!(memory.view().read_obj::<u8>(last).unwrap(), 0);
    }

    #[test]
    fn a_range_is_split_where_its_rams_meet() {
        let ram = |base, len| {
            let config = GuestRamConfig::new(ByteSize::new(len).unwrap(), Backing::Anonymous);
            Arc::new(GuestRam::create(GuestRamConfig { guest_base: GuestAddress(base), ..config }).unwrap())
        };
        let memory = Memory::of(vec![ram(0, PAGE_SIZE), ram(PAGE_SIZE, 3 * PAGE_SIZE)]).unwrap();

        let parts = memory.split(range(0, 3 * PAGE_SIZE)).unwrap();

        let parts: Vec<_> = parts.into_iter().map(|(_, part)| part).collect();
        assert_eq!(parts, [range(0, PAGE_SIZE), range(PAGE_SIZE, 2 * PAGE_SIZE)]);
        assert!(memory.split(range(0, 5 * PAGE_SIZE)).is_err());
        assert!(memory.split(range(8 * PAGE_SIZE, PAGE_SIZE)).is_err());
    }

    #[test]
    fn what_is_pinned_stays_when_its_memory_is_discarded() {
        let memory = memory(4 * G);
        memory.view().write_obj(7_u8, GuestAddress(4 * G)).unwrap();
        let _pin = memory.pin(range(4 * G, PAGE_SIZE), true).unwrap();

        let discarded = memory.discard(range(4 * G, 2 * PAGE_SIZE)).unwrap();

        assert_eq!((discarded.freed_bytes, discarded.pinned_bytes), (PAGE_SIZE, PAGE_SIZE));
        assert_eq!(memory.view().read_obj::<u8>(GuestAddress(4 * G)).unwrap(), 7);
        assert!(memory.pin(range(3 * G, PAGE_SIZE), true).is_err());
    }
}
