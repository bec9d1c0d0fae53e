//! The oracle: is every translation that is held one that the Mm holds now?

use guest_mem::{Gfn, Mm, PageSize, Pfn, pgtable::Entry};

use super::entry::{Leaf, Level};

/// A translation that is held and should not be: what is behind the address is another frame by now, or none, or may not be
/// written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{address:#x} is translated to frame {frame:?} by {leaf:?}, but the memory manager has {now:?} there"
)]
pub struct Stale {
    /// The first guest-physical address that is translated wrongly.
    pub address: u64,
    /// The frame that the translation leads to.
    pub frame: Pfn,
    /// The translation.
    pub leaf: Leaf,
    /// What the Mm has there.
    pub now: Entry,
}

/// Whether `mm` has all that `leaf`, whose range starts at `start`, translates.
pub(super) fn check(mm: &Mm, start: u64, leaf: Leaf) -> Result<(), Stale> {
    let end = start + leaf.level.bytes();
    let mut address = start;
    while address < end {
        let (gfn, frame) = (Gfn::of(address), leaf.frame(address));
        let now = mm.page_table().walk(gfn);
        let same = now.is_present() && now.pfn_of(gfn) == frame && (now.is_writable() || !leaf.writable);
        if !same {
            return Err(Stale { address, frame, leaf, now });
        }
        address = match now.size() {
            PageSize::Huge => Level::M2.start(address) + Level::M2.bytes(),
            PageSize::Base => address + Level::K4.bytes(),
        };
    }
    Ok(())
}
