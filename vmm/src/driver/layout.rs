//! Where everything lies in guest-physical memory. The guest maps all of it at the same virtual addresses.
//!
//! ```text
//! 0x0_4000_0000  control slot: page tables (the guest does not map them), to the next 2 MiB
//!                              code, 4 KiB
//!                              barrier, 4 KiB
//!                              for each vCPU: mailbox, 4 KiB; records (samples or a histogram)
//! 0x0_d000_0000  doorbell: no memory, so a store there is an exit
//! 0x1_0000_0000  RAM: what is measured, from one byte to the end of the address space
//! ```
//! RAM starts at a multiple of 1 GiB, so that it can be mapped with pages of every size.

use super::{BUCKETS, GuestPage, MAILBOX_SIZE, TimedTouch, page_tables};

/// Where RAM starts, guest-physical and guest-virtual.
pub const RAM_BASE: u64 = 4 << 30;
/// A store here ends a command. No memory, 4-byte access.
pub const DOORBELL: u64 = 0xd000_0000;
/// Where the control slot starts.
const CONTROL_BASE: u64 = 1 << 30;

const PAGE: u64 = 4096;
pub(super) const HUGE: u64 = 2 << 20;
/// Where addresses of 4-level paging end in the lower half.
const ADDRESS_LIMIT: u64 = 1 << 47;

/// The guest-physical layout of one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    ram_bytes: u64,
    guest_page: GuestPage,
    vcpus: u32,
    record_bytes: u64,
    tables_bytes: u64,
}

/// What belongs to one vCPU. All addresses are guest-physical, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuArea {
    /// The mailbox, one page.
    pub mailbox: u64,
    /// Where the guest leaves samples or its histogram.
    pub records: u64,
    /// How many bytes `records` has room for.
    pub record_bytes: u64,
}

/// Why no layout holds what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// RAM ends beyond the addresses that 4-level paging reaches.
    #[error(
        "guest RAM of {bytes:#x} bytes ends beyond the {ADDRESS_LIMIT:#x} bytes that 4-level paging addresses; ask for less"
    )]
    RamTooLarge {
        /// How many bytes of RAM were asked for.
        bytes: u64,
    },
    /// Samples and page tables do not fit below the doorbell.
    #[error(
        "page tables and samples take {bytes:#x} bytes and the guest has {room:#x} for them: use larger guest pages, \
         or fewer touches, or leave the samples out"
    )]
    ControlTooLarge {
        /// How many bytes they take.
        bytes: u64,
        /// How many there are.
        room: u64,
    },
}

impl Layout {
    /// The layout for `ram_bytes` of RAM mapped in pages of `guest_page`, and `vcpus` vCPUs that each record up to
    /// `samples` touches. There is always room for a histogram.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn new(ram_bytes: u64, guest_page: GuestPage, vcpus: u32, samples: u64) -> Result<Self, LayoutError> {
        let too_large = LayoutError::RamTooLarge { bytes: ram_bytes };
        let end = RAM_BASE.checked_add(ram_bytes).ok_or(too_large)?;
        if end > ADDRESS_LIMIT {
            return Err(too_large);
        }
        let room = DOORBELL - CONTROL_BASE;
        let record_bytes = samples.saturating_mul(TimedTouch::BYTES).max(BUCKETS as u64 * 8);
        let record_bytes = record_bytes.checked_next_multiple_of(PAGE);
        let mut layout = Self {
            ram_bytes,
            guest_page,
            vcpus,
            record_bytes: record_bytes.unwrap_or(u64::MAX),
            tables_bytes: 0,
        };
        let control_too_large = |bytes| LayoutError::ControlTooLarge { bytes, room };
        let areas = layout.record_bytes.saturating_add(MAILBOX_SIZE).saturating_mul(vcpus.into());
        if areas > room {
            return Err(control_too_large(areas));
        }
        // How much the tables take hardly depends on where the control slot ends: count for the largest.
        let tables = page_tables::count(&layout.mappings_with(room - 2 * PAGE)).saturating_mul(PAGE);
        layout.tables_bytes = tables.next_multiple_of(HUGE);
        let bytes = layout.control_bytes();
        if bytes > room { Err(control_too_large(bytes)) } else { Ok(layout) }
    }

    /// Where the control slot starts.
    #[must_use]
    pub const fn control_base(&self) -> u64 {
        CONTROL_BASE
    }

    /// How many bytes the control slot has, a multiple of 4096.
    #[must_use]
    pub fn control_bytes(&self) -> u64 {
        let area = MAILBOX_SIZE + self.record_bytes;
        self.tables_bytes + 2 * PAGE + u64::from(self.vcpus) * area
    }

    /// Where the top-level page table lies, and all others behind it.
    #[must_use]
    pub const fn tables(&self) -> u64 {
        CONTROL_BASE
    }

    /// Where the code goes: one page, entered at its start.
    #[must_use]
    pub const fn code(&self) -> u64 {
        CONTROL_BASE + self.tables_bytes
    }

    /// The word on which vCPUs wait for each other.
    #[must_use]
    pub const fn barrier(&self) -> u64 {
        self.code() + PAGE
    }

    /// What belongs to vCPU `id`, which is below the number of vCPUs.
    #[must_use]
    pub fn vcpu(&self, id: u32) -> VcpuArea {
        let mailbox = self.barrier() + PAGE + u64::from(id) * (MAILBOX_SIZE + self.record_bytes);
        VcpuArea { mailbox, records: mailbox + MAILBOX_SIZE, record_bytes: self.record_bytes }
    }

    /// The size of the pages with which the guest maps RAM.
    #[must_use]
    pub const fn guest_page(&self) -> GuestPage {
        self.guest_page
    }

    /// What the guest maps, in ascending order and without overlap.
    pub(super) fn mappings(&self) -> [page_tables::Mapping; 3] {
        self.mappings_with(self.control_bytes() - self.tables_bytes)
    }

    fn mappings_with(&self, control_bytes: u64) -> [page_tables::Mapping; 3] {
        let mapping = |start, bytes, page, execute| page_tables::Mapping { start, bytes, page, execute };
        [
            mapping(self.code(), control_bytes, GuestPage::M2, true),
            mapping(DOORBELL, HUGE, GuestPage::M2, false),
            mapping(RAM_BASE, self.ram_bytes, self.guest_page, false),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page() -> impl Strategy<Value = GuestPage> {
        prop_oneof![Just(GuestPage::K4), Just(GuestPage::M2), Just(GuestPage::G1)]
    }

    proptest! {
        #[test]
        fn nothing_overlaps(mib in 1_u64..1 << 16, page in page(), vcpus in 1_u32..64, samples in 0_u64..1 << 16) {
            let layout = Layout::new(mib << 20, page, vcpus, samples).unwrap();
            let mut end = layout.barrier() + PAGE;

            prop_assert!(layout.code() >= layout.tables() + page_tables::count(&layout.mappings()) * PAGE);
            for id in 0..vcpus {
                let area = layout.vcpu(id);
                prop_assert_eq!(area.mailbox, end);
                prop_assert_eq!(area.records, area.mailbox + MAILBOX_SIZE);
                prop_assert!(area.record_bytes >= samples * TimedTouch::BYTES);
                end = area.records + area.record_bytes;
            }
            prop_assert_eq!(end, CONTROL_BASE + layout.control_bytes());
            prop_assert!(end <= DOORBELL);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let beyond = Layout::new(ADDRESS_LIMIT, GuestPage::G1, 1, 0);
        let wraps = Layout::new(u64::MAX, GuestPage::G1, 1, 0);
        let samples = Layout::new(1 << 30, GuestPage::M2, 1, u64::MAX);

        assert_eq!(beyond, Err(LayoutError::RamTooLarge { bytes: ADDRESS_LIMIT }));
        assert_eq!(wraps, Err(LayoutError::RamTooLarge { bytes: u64::MAX }));
        assert!(matches!(samples, Err(LayoutError::ControlTooLarge { .. })));
    }
}
