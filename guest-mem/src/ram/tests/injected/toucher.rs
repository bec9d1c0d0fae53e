//! One thread's use of its part of a RAM, of which it knows what every page holds.

use mmu_notifier::AddressRange;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::{ChangeError, vma::VmaChange};

/// What a page holds.
#[derive(Clone, Copy, Debug, Default)]
struct Page {
    value: u64,
    /// A discard of it failed: it may be zero.
    or_zero: bool,
}

/// A thread's part of `ram`, used by nobody else.
pub(super) struct Toucher<'a> {
    ram: &'a GuestRam,
    part: AddressRange,
    pages: Vec<Page>,
    random: u64,
    /// Operations that failed, and said so.
    pub(super) refused: u64,
}

impl<'a> Toucher<'a> {
    pub(super) fn new(ram: &'a GuestRam, part: AddressRange, seed: u64) -> Self {
        let pages = usize::try_from(part.pages()).unwrap();
        Self { ram, part, pages: vec![Page::default(); pages], random: seed * 2 + 1, refused: 0 }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn address(&self, page: u64) -> GuestAddress {
        GuestAddress(self.part.start() + page * PAGE_SIZE)
    }

    /// Does something to some page.
    pub(super) fn step(&mut self) {
        let page = self.random(self.part.pages());
        match self.random(64) {
            0 => self.discard(0, self.part.pages()),
            1..6 => self.discard(page, 1 + self.random.rotate_left(7) % (self.part.pages() - page)),
            6 => self.forbid_writes(page),
            7 => self.track_writes(page),
            8..32 => self.check(page),
            _ => self.write(page),
        }
    }

    fn write(&mut self, page: u64) {
        let value = self.random(u64::MAX) | 1;
        self.ram.view().write_obj(value, self.address(page)).unwrap();
        self.pages[usize::try_from(page).unwrap()] = Page { value, or_zero: false };
    }

    #[track_caller]
    fn check(&mut self, page: u64) {
        let found = self.ram.view().read_obj::<u64>(self.address(page)).unwrap();
        let known = &mut self.pages[usize::try_from(page).unwrap()];
        let right = found == known.value || found == 0 && known.or_zero;
        assert!(right, "page {page:#x} of {} holds {found:#x} and not {known:?}", self.part);
        *known = Page { value: found, or_zero: false };
    }

    /// Looks at every page.
    #[track_caller]
    pub(super) fn check_all(&mut self) {
        (0..self.part.pages()).for_each(|page| self.check(page));
    }

    fn discard(&mut self, page: u64, pages: u64) {
        let range = AddressRange::new(self.address(page).0, pages * PAGE_SIZE).unwrap();
        let done = self.ram.discard(range).is_ok();
        self.refused += u64::from(!done);
        let [first, count] = [page, pages].map(|number| usize::try_from(number).unwrap());
        for known in &mut self.pages[first..first + count] {
            *known = if done { Page::default() } else { Page { or_zero: true, ..*known } };
        }
    }

    /// The least that can be changed around a page.
    fn changeable(&self, page: u64) -> AddressRange {
        match self.ram.backing() {
            Backing::Managed2mb => self.part,
            _ => AddressRange::new(self.address(page).0, PAGE_SIZE).unwrap(),
        }
    }

    /// Makes `change` around `page`, as often as it takes.
    fn change(&mut self, page: u64, change: &VmaChange) {
        let (mm, range) = (self.ram.mm().unwrap(), self.changeable(page));
        while let Err(error) = mm.modify(range, change) {
            assert!(matches!(error, ChangeError::Host { .. }), "{error}");
            self.refused += 1;
        }
    }

    fn forbid_writes(&mut self, page: u64) {
        self.change(page, &VmaChange::Writable(false));
        self.check(page);
        self.change(page, &VmaChange::Writable(true));
        self.write(page);
    }

    fn track_writes(&mut self, page: u64) {
        self.change(page, &VmaChange::DirtyTracked(true));
        self.write(page);
        let mm = self.ram.mm().unwrap();
        let dirty = mm.dirty_pages(self.changeable(page), false).unwrap();
        let gfn = crate::Gfn::of(self.address(page).0);
        assert!(dirty.contains(&gfn), "{gfn:?} was written and is not among {dirty:?}");
        self.refused += u64::from(mm.dirty_pages(self.changeable(page), true).is_err());
        self.change(page, &VmaChange::DirtyTracked(false));
    }
}
