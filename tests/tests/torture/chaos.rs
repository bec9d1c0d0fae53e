//! What the host does to RAM that a guest uses.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use guest_mem::{
    Backing, ChangeError, FaultReason, GuestRam,
    vma::{HugePolicy, VmaChange},
};
use mmu_notifier::AddressRange;
use vm_memory::{Bytes, GuestAddress};
use vmm::driver::pattern;

use super::zones::{NEW, ZONE, Zones};

const PAGE: u64 = 4096;

/// What all threads of the host share.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) ram: Arc<GuestRam>,
    pub(crate) zones: Zones,
    pub(crate) filled: bool,
    pub(crate) stop: AtomicBool,
}

/// Marsaglia's xorshift: the same choices in each run.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// Some pages in `range`.
    fn part(&mut self, range: AddressRange, unit: u64) -> AddressRange {
        let units = range.len() / unit;
        let first = self.below(units);
        let count = 1 + self.below(units - first).min(self.below(64));
        AddressRange::new(range.start() + first * unit, count * unit).unwrap()
    }
}

impl Host {
    /// Whether a part of a page may be zeroed when it is discarded, and not filled again before all of it is: of every
    /// page that may be huge, and here that is every page now and then.
    const fn zeroes_parts(&self) -> bool {
        self.filled
    }

    fn is_running(&self) -> bool {
        !self.stop.load(Relaxed)
    }

    /// Takes pages away: in zones that the guest does not use just then, and where it does not matter.
    pub(crate) fn discard(&self) {
        let mut random = Random(1);
        while self.is_running() {
            let mut zone = self.zones.take(random.below(64));
            let first = random.below(ZONE / PAGE);
            let (first, pages) = match random.below(4) {
                0 => (0, ZONE / PAGE),
                _ => (first, 1 + random.below(ZONE / PAGE - first)),
            };
            let range = AddressRange::new(zone.start() + first * PAGE, pages * PAGE).unwrap();
            let pinned = self.ram.discard(range).unwrap().pinned_bytes;
            zone.discarded(first, pages, pinned > 0, self.zeroes_parts() && pages < ZONE / PAGE);
            self.zones.put_back(zone);

            self.ram.discard(random.part(Zones::wild(), PAGE)).unwrap();
            if random.below(8) == 0 {
                self.ram.discard(Zones::wild()).unwrap();
            }
            thread::sleep(Duration::from_micros(random.below(500)));
        }
    }

    /// Changes what is asked for, anywhere.
    pub(crate) fn change(&self) {
        let mut random = Random(2);
        let mm = self.ram.mm().unwrap();
        // What may be huge is changed as a whole.
        let (unit, usual) = match self.ram.backing() {
            Backing::Managed4kb => (PAGE, HugePolicy::Never),
            _ => (ZONE, HugePolicy::Always),
        };
        let unusual = [HugePolicy::Always, HugePolicy::Never][usize::from(usual == HugePolicy::Always)];
        let both_sizes = !self.ram.backing().is_hugetlb();
        while self.is_running() {
            let range = random.part(self.ram.range(), unit);
            match random.below(5) {
                0 if self.change_one(range, &VmaChange::Writable(false)) => {
                    thread::sleep(Duration::from_micros(random.below(300)));
                    mm.modify(range, &VmaChange::Writable(true)).unwrap();
                }
                1 if self.change_one(range, &VmaChange::DirtyTracked(true)) => {
                    thread::sleep(Duration::from_micros(random.below(300)));
                    mm.dirty_pages(range, true).unwrap();
                    mm.modify(range, &VmaChange::DirtyTracked(false)).unwrap();
                }
                2 if both_sizes => {
                    let policy = [usual, unusual][usize::from(random.below(4) == 0)];
                    self.change_one(random.part(self.ram.range(), ZONE), &VmaChange::Huge(policy));
                }
                3 => {
                    self.change_one(range, &VmaChange::Name(Some("tortured".into())));
                }
                _ => {
                    self.change_one(range, &VmaChange::Mergeable(random.below(2) == 0));
                }
            }
        }
        let all = self.ram.range();
        mm.modify(all, &VmaChange::Name(None)).unwrap();
        mm.modify(all, &VmaChange::Mergeable(false)).unwrap();
        if both_sizes {
            mm.modify(all, &VmaChange::Huge(usual)).unwrap();
        }
        assert_eq!(mm.vmas().snapshot().iter().count(), 1, "equal VMAs are one");
    }

    /// Whether `range` was changed; it is not if it ends in a huge page.
    fn change_one(&self, range: AddressRange, change: &VmaChange) -> bool {
        match self.ram.mm().unwrap().modify(range, change) {
            Ok(()) => true,
            Err(ChangeError::PartOfHugePage { .. }) => false,
            Err(error) => panic!("{range} was not changed: {error}"),
        }
    }

    /// Touches pages ahead of the guest, pins some of them for a while, and asks for every report.
    pub(crate) fn touch(&self) {
        let mut random = Random(3);
        let mm = self.ram.mm().unwrap();
        while self.is_running() {
            let range = random.part(self.ram.range(), PAGE);
            let _prefaulted: u64 = self.ram.view().read_obj(GuestAddress(range.start())).unwrap();
            // What is missing or being changed is not pinned.
            if let Ok(pin) = mm.page_table().pin(range, random.below(2) == 0, mm.folios()) {
                thread::sleep(Duration::from_micros(random.below(200)));
                drop(pin);
            }
            self.check_wild(Zones::wild().start() + random.below(2 * ZONE / PAGE) * PAGE);
            let report = self.ram.report().unwrap();
            assert!(report.resident_bytes.unwrap() <= self.ram.size().bytes(), "{report:?}");
            assert!(mm.pool().report().usage.used <= self.ram.range().pages());
            let given_up = mm.stats().of(FaultReason::Poisoned);
            assert_eq!(given_up, 0, "no page is given up");
            assert!(self.ram.take_fault_trace().iter().all(|fault| fault.read <= fault.resolved));
        }
    }

    /// The guest stores addresses in the first words of wild pages: anything but that and new memory is wrong.
    fn check_wild(&self, page: u64) {
        let word: u64 = self.ram.view().read_obj(GuestAddress(page)).unwrap();
        let new = if self.filled { pattern(page, NEW) } else { 0 };
        let zeroed = word == 0 && self.zeroes_parts();
        assert!(word == page || word == new || zeroed, "{word:#x} at {page:#x}, where {new:#x} was new");
    }
}
