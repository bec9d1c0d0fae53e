//! Where everything lies in guest-physical memory when a kernel starts.
//!
//! ```text
//! 0x500      descriptor table                 0x9_fc00   end of conventional memory
//! 0x6000     PVH start info                   0xf_0000   MP table
//! 0x7000     boot parameters, or PVH's map    1 MiB      kernels
//! 0x8ff0     stack, downwards                   ...
//! 0x9000     page tables                      top of low RAM: initrd
//! 0x2_0000   command line
//! ```

use crate::memory::HOLE;

/// The descriptor table.
pub(super) const GDT: u64 = 0x500;
/// PVH's start info.
pub(super) const START_INFO: u64 = 0x6000;
/// PVH's list of modules.
pub(super) const MODULES: u64 = 0x6800;
/// Linux's boot parameters; for PVH the memory map.
pub(super) const ZERO_PAGE: u64 = 0x7000;
/// The top of the boot stack.
pub(super) const STACK: u64 = 0x8ff0;
/// Three page tables: one of each level above the 2 MiB pages.
pub(super) const PAGE_TABLES: u64 = 0x9000;
/// The command line.
pub(super) const COMMAND_LINE: u64 = 0x2_0000;
/// Where conventional memory ends.
pub(super) const CONVENTIONAL_END: u64 = 0x9_fc00;
/// The MP table: in the last 64 KiB below 1 MiB, where a kernel looks for it.
pub(super) const MP_TABLE: u64 = 0xf_0000;
/// Kernels begin here or above.
pub const HIGH_MEMORY: u64 = 1 << 20;

/// One entry of the memory map that a guest is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapEntry {
    pub(super) start: u64,
    pub(super) len: u64,
    /// As e820 and PVH count kinds of memory.
    pub(super) kind: u32,
}

/// Memory that is free to use.
pub(super) const RAM: u32 = 1;
/// Memory that is not.
pub(super) const RESERVED: u32 = 2;

/// The memory map of a guest whose `rams` are these, as start and length, by address; the first is from 0.
pub(super) fn memory_map(rams: &[(u64, u64)]) -> Vec<MapEntry> {
    let entry = |start, end: u64, kind| MapEntry { start, len: end - start, kind };
    let mut map = vec![entry(0, CONVENTIONAL_END, RAM), entry(CONVENTIONAL_END, HIGH_MEMORY, RESERVED)];
    for (start, len) in rams.iter().copied() {
        map.push(entry(start.max(HIGH_MEMORY), start + len, RAM));
    }
    map
}

/// Where RAM below the hole ends.
pub(super) fn low_end(rams: &[(u64, u64)]) -> u64 {
    rams.first().map_or(0, |(start, len)| (start + len).min(HOLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: u64 = 1 << 30;

    #[test]
    fn a_small_guest_has_one_stretch_of_high_memory() {
        let map = memory_map(&[(0, 64 << 20)]);

        let entries: Vec<_> = map.iter().map(|entry| (entry.start, entry.len, entry.kind)).collect();
        assert_eq!(
            entries,
            [(0, 0x9_fc00, RAM), (0x9_fc00, 0x400 + 0x6_0000, RESERVED), (0x10_0000, 63 << 20, RAM)]
        );
    }

    #[test]
    fn ram_above_the_hole_is_in_the_map() {
        let rams = [(0, 3 * G), (4 * G, G)];
        let last = memory_map(&rams)[3];

        assert_eq!((last.start, last.len, last.kind), (4 * G, G, RAM));
        assert_eq!(low_end(&rams), 3 * G);
    }

    #[test]
    fn nothing_that_is_laid_out_overlaps() {
        let places = [
            (GDT, 0x40),
            (START_INFO, 0x38),
            (MODULES, 0x20),
            (ZERO_PAGE, 0x1000),
            (STACK - 0xff0, 0xff0),
            (PAGE_TABLES, 0x3000),
            (COMMAND_LINE, 0x1_0000),
            (MP_TABLE, 0x1_0000),
        ];

        assert!(places.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
    }
}
