//! Anonymous memory of this process.
#![expect(unsafe_code, reason = "mapping memory and looking at it is what this file is for")]

use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};
use core::slice;
use core::sync::atomic::AtomicU64;

use rustix::mm::{self, Advice, MapFlags, ProtFlags};

use crate::machine;
use crate::outcome::Failure;

/// Bytes of a MiB.
pub(crate) const MIB: usize = 1 << 20;
/// Bytes of a huge page.
const HUGE: usize = 2 * MIB;

/// By which pages a region would be mapped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pages {
    Small,
    /// Where Linux has huge ones to give.
    Huge,
}

/// A mapping, aligned to 2 MiB, zero at first, unmapped when dropped.
pub(crate) struct Region {
    mapped: NonNull<c_void>,
    mapped_len: usize,
    words: NonNull<AtomicU64>,
    len: usize,
}

impl Region {
    /// Maps `mib` MiB.
    pub(crate) fn map(mib: usize, pages: Pages) -> Result<Self, Failure> {
        let len = mib.checked_mul(MIB).ok_or(Failure::Usage("too many MiB"))?;
        let mapped_len = len.checked_add(HUGE).ok_or(Failure::Usage("too many MiB"))?;
        // SAFETY: a new mapping at an address of Linux's choice touches nothing that exists.
        let mapped = unsafe {
            mm::mmap_anonymous(null_mut(), mapped_len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        };
        let mapped = mapped.ok().and_then(NonNull::new).ok_or(Failure::Wrong("no memory to map"))?;
        let gap = mapped.addr().get().wrapping_neg() % HUGE;
        // SAFETY: the mapping is one huge page longer than `len`, and the gap to the next boundary is shorter.
        let words = unsafe { mapped.byte_add(gap) }.cast();
        let region = Self { mapped, mapped_len, words, len };
        region.advise(pages)?;
        Ok(region)
    }

    /// The memory, word by word. Atomic, so that each access is one: nobody else writes here but a host that errs.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: `len` bytes from `words` on are mapped for reading and writing as long as `self` lives, zero is a
        // word, and 2 MiB is aligned enough.
        unsafe { slice::from_raw_parts(self.words.as_ptr(), self.len / size_of::<u64>()) }
    }

    /// The memory as bytes, for whoever has the region alone.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: as for `words`; the exclusive borrow keeps other borrows away.
        unsafe { slice::from_raw_parts_mut(self.words.as_ptr().cast(), self.len) }
    }

    fn advise(&self, pages: Pages) -> Result<(), Failure> {
        let advice = match pages {
            Pages::Small => Advice::LinuxNoHugepage,
            Pages::Huge => {
                // Linux turns huge pages off by itself where there is little memory.
                machine::set(c"/sys/kernel/mm/transparent_hugepage/enabled", "madvise")
                    .map_err(Failure::refused("transparent_hugepage"))?;
                Advice::LinuxHugepage
            }
        };
        // SAFETY: this advice changes by which pages the mapping is made, not what is in it.
        unsafe { mm::madvise(self.words.as_ptr().cast(), self.len, advice) }
            .map_err(Failure::refused("madvise"))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is this region's own, and borrows of it have ended.
        let _ = unsafe { mm::munmap(self.mapped.as_ptr(), self.mapped_len) };
    }
}
