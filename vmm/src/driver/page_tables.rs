//! The guest's page tables: 4 levels, identity, with leaves of a chosen size.
//!
//! Accessed and dirty are set from the start, so that neither the processor nor KVM's shadow walker ever has to
//! write to a table while the guest is being timed.

use std::{fmt, str::FromStr};

use vm_memory::{Bytes, GuestAddress};

use super::Layout;

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// In an entry above the last level: a leaf, not a table.
const PAGE_SIZE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

const ENTRIES: usize = 512;
const TABLE_BYTES: u64 = 4096;
/// The levels are counted from the leaf side: 0 holds 4 KiB pages, 3 is the top.
const TOP: u32 = 3;

/// The size of the pages with which the guest maps its RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GuestPage {
    /// 4 KiB.
    K4,
    /// 2 MiB.
    M2,
    /// 1 GiB.
    G1,
}

/// Not the name of a page size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no guest page size: use 4k, 2m or 1g")]
pub struct ParseGuestPageError(String);

/// One stretch of addresses that the guest maps to themselves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) page: GuestPage,
    pub(super) execute: bool,
}

impl GuestPage {
    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        span(self.level())
    }

    /// The level whose entries are leaves of this size.
    const fn level(self) -> u32 {
        match self {
            Self::K4 => 0,
            Self::M2 => 1,
            Self::G1 => 2,
        }
    }
}

impl FromStr for GuestPage {
    type Err = ParseGuestPageError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "4k" => Ok(Self::K4),
            "2m" => Ok(Self::M2),
            "1g" => Ok(Self::G1),
            _ => Err(ParseGuestPageError(text.to_owned())),
        }
    }
}

impl fmt::Display for GuestPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::K4 => "4k",
            Self::M2 => "2m",
            Self::G1 => "1g",
        })
    }
}

impl Mapping {
    /// Whether any page of the mapping lies in the `bytes` from `address` on. Pages are whole: the last one may
    /// reach beyond the mapping's end.
    const fn touches(&self, address: u64, bytes: u64) -> bool {
        let end = (self.start + self.bytes).next_multiple_of(self.page.bytes());
        self.start < address + bytes && address < end
    }

    const fn leaf(&self, address: u64, level: u32) -> u64 {
        let size = if level == 0 { 0 } else { PAGE_SIZE };
        let execute = if self.execute { 0 } else { NO_EXECUTE };
        address | PRESENT | WRITE | USER | ACCESSED | DIRTY | size | execute
    }
}

/// How many bytes one entry of a table of `level` covers.
const fn span(level: u32) -> u64 {
    1 << (12 + 9 * level)
}

/// How many tables map `mappings`, which ascend and do not overlap.
pub(super) fn count(mappings: &[Mapping]) -> u64 {
    let tables_of = |level: u32| {
        let mut tables = 0;
        let mut next = 0;
        for mapping in mappings.iter().filter(|mapping| mapping.page.level() <= level) {
            let first = (mapping.start / span(level + 1)).max(next);
            let end = (mapping.start + mapping.bytes).div_ceil(span(level + 1)).max(first);
            tables += end - first;
            next = end;
        }
        tables
    };
    1 + (0..TOP).map(tables_of).sum::<u64>()
}

/// Writes the tables of `layout` into guest memory, the top-level table first.
///
/// # Errors
/// The memory's own error when the control slot is not all there.
pub fn write_tables<M: Bytes<GuestAddress>>(layout: &Layout, memory: &M) -> Result<(), M::E> {
    let mut writer = Writer { mappings: layout.mappings(), memory, next: layout.tables() };
    writer.table(TOP, 0).map(|_| ())
}

struct Writer<'a, M> {
    mappings: [Mapping; 3],
    memory: &'a M,
    next: u64,
}

impl<M: Bytes<GuestAddress>> Writer<'_, M> {
    /// Writes the table of `level` that maps what lies from `address` on, and those below it. Returns where it is.
    fn table(&mut self, level: u32, address: u64) -> Result<u64, M::E> {
        let here = self.next;
        self.next += TABLE_BYTES;
        let mut table = [0; ENTRIES * 8];
        let mut start = address;
        for entry in table.as_chunks_mut().0 {
            let found = self.mappings.iter().find(|mapping| mapping.touches(start, span(level)));
            let value = match found {
                None => 0,
                Some(mapping) if mapping.page.level() == level => mapping.leaf(start, level),
                Some(_) => self.table(level - 1, start)? | PRESENT | WRITE | USER | ACCESSED,
            };
            *entry = u64::to_le_bytes(value);
            start += span(level);
        }
        self.memory.write_slice(&table, GuestAddress(here))?;
        Ok(here)
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestMemoryMmap;

    use super::*;
    use crate::driver::{DOORBELL, RAM_BASE};

    /// A walk as the processor does it: the physical address, the page size and whether code may run there.
    fn walk(memory: &GuestMemoryMmap, cr3: u64, address: u64) -> Option<(u64, u64, bool)> {
        let mut table = cr3;
        for level in (0..=TOP).rev() {
            let index = (address / span(level)) % ENTRIES as u64;
            let entry: u64 = memory.read_obj(GuestAddress(table + index * 8)).unwrap();
            if entry & PRESENT == 0 {
                return None;
            }
            assert_eq!(entry & (WRITE | USER | ACCESSED), WRITE | USER | ACCESSED);
            let target = entry & 0x000f_ffff_ffff_f000;
            if level == 0 || entry & PAGE_SIZE != 0 {
                assert_eq!(entry & DIRTY, DIRTY);
                return Some((target + address % span(level), span(level), entry & NO_EXECUTE == 0));
            }
            table = target;
        }
        None
    }

    #[track_caller]
    fn assert_maps(page: GuestPage, ram_bytes: u64) {
        let layout = Layout::new(ram_bytes, page, 2, 0).unwrap();
        let control = usize::try_from(layout.control_bytes()).unwrap();
        let memory =
            GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(layout.control_base()), control)]).unwrap();

        write_tables(&layout, &memory).unwrap();

        let at = |address| walk(&memory, layout.tables(), address);
        let last = RAM_BASE + ram_bytes - 1;
        assert_eq!(at(RAM_BASE), Some((RAM_BASE, page.bytes(), false)));
        assert_eq!(at(last), Some((last, page.bytes(), false)));
        assert_eq!(at((last + 1).next_multiple_of(page.bytes())), None);
        assert_eq!(at(layout.code()), Some((layout.code(), 2 << 20, true)));
        assert_eq!(at(DOORBELL), Some((DOORBELL, 2 << 20, false)));
        assert_eq!(at(layout.tables()), None, "the guest cannot reach its tables");
        assert_eq!(at(0), None);
    }

    #[test]
    fn ram_control_and_doorbell_are_mapped_to_themselves() {
        assert_maps(GuestPage::K4, 6 << 20);
        assert_maps(GuestPage::K4, 2 << 30);
        assert_maps(GuestPage::M2, 3 << 30);
        assert_maps(GuestPage::M2, 4096);
        assert_maps(GuestPage::G1, 64 << 20);
        assert_maps(GuestPage::G1, 600 << 30);
    }

    #[test]
    fn page_sizes_have_names() {
        assert_eq!("2M".parse(), Ok(GuestPage::M2));
        assert_eq!(GuestPage::G1.to_string().parse(), Ok(GuestPage::G1));
        assert!("3m".parse::<GuestPage>().unwrap_err().to_string().contains("4k, 2m or 1g"));
    }
}
