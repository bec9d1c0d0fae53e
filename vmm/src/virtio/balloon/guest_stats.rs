//! What a guest tells about its memory.

use super::super::buffers::ReadBuffers;

/// What a guest tells about its memory: as much as its driver knows, as of its latest message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestStats {
    /// Bytes swapped in.
    pub swap_in: Option<u64>,
    /// Bytes swapped out.
    pub swap_out: Option<u64>,
    /// Page faults that waited for I/O.
    pub major_faults: Option<u64>,
    /// Page faults that did not.
    pub minor_faults: Option<u64>,
    /// Bytes that nobody uses.
    pub free_memory: Option<u64>,
    /// Bytes in all.
    pub total_memory: Option<u64>,
    /// Bytes that could be had without swapping.
    pub available_memory: Option<u64>,
    /// Bytes of caches that could be had without I/O.
    pub disk_caches: Option<u64>,
    /// Huge pages that were allocated.
    pub hugetlb_allocations: Option<u64>,
    /// Huge pages that could not be.
    pub hugetlb_failures: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kill: Option<u64>,
    /// Allocations that had to wait.
    pub alloc_stall: Option<u64>,
    /// Pages scanned in the background.
    pub async_scan: Option<u64>,
    /// Pages scanned by who wanted one.
    pub direct_scan: Option<u64>,
    /// Pages reclaimed in the background.
    pub async_reclaim: Option<u64>,
    /// Pages reclaimed by who wanted one.
    pub direct_reclaim: Option<u64>,
}

impl GuestStats {
    /// Reads a message: pairs of a tag and a number, of which unknown ones are skipped.
    pub(super) fn read(message: &mut ReadBuffers) -> Self {
        let mut stats = Self::default();
        let mut pair = [0; 10];
        // No driver knows more than a few dozen.
        for _ in 0..64 {
            if message.read_exact(&mut pair).is_err() {
                break;
            }
            let [tag_0, tag_1, value @ ..] = pair;
            if let Some(field) = stats.field(u16::from_le_bytes([tag_0, tag_1])) {
                *field = Some(u64::from_le_bytes(value));
            }
        }
        stats
    }

    /// What the specification means by `tag` (virtio 1.2, section 5.5.6.4, and Linux's header for those from 10 on).
    const fn field(&mut self, tag: u16) -> Option<&mut Option<u64>> {
        Some(match tag {
            0 => &mut self.swap_in,
            1 => &mut self.swap_out,
            2 => &mut self.major_faults,
            3 => &mut self.minor_faults,
            4 => &mut self.free_memory,
            5 => &mut self.total_memory,
            6 => &mut self.available_memory,
            7 => &mut self.disk_caches,
            8 => &mut self.hugetlb_allocations,
            9 => &mut self.hugetlb_failures,
            10 => &mut self.oom_kill,
            11 => &mut self.alloc_stall,
            12 => &mut self.async_scan,
            13 => &mut self.direct_scan,
            14 => &mut self.async_reclaim,
            15 => &mut self.direct_reclaim,
            _ => return None,
        })
    }
}
