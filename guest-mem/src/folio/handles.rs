//! The three kinds of reference to a folio.

use std::{fmt, mem::ManuallyDrop, ops::Deref};

use mmu_notifier::sync::atomic::Ordering::{Acquire, Release};

use super::{
    FolioLockGuard, FrameTable,
    lock::{Flags, Queues},
    loom_unwinds,
    table::{Head, Meta},
};
use crate::frame::PageSize;

/// A folio that somebody else's reference keeps: valid while a page-table entry that has one cannot change, or while
/// the [`FolioRef`] or [`ExclusiveFolio`] that it comes from lives.
///
/// Metadata is never freed before its table, so what is asked after that is answered about whatever the frame has
/// become.
#[derive(Clone, Copy)]
pub struct FolioBorrow<'t> {
    table: &'t FrameTable,
    meta: Meta<'t>,
    index: u64,
}

/// One reference to a folio. Dropped, it is given back; with the last one the folio goes to the table's release.
#[must_use = "dropping it gives the reference back"]
pub struct FolioRef<'t>(FolioBorrow<'t>);

/// A folio that nobody else has a reference to, nor can get one: free memory on its way in or out of use.
///
/// It is unfrozen or freed; one that is dropped is freed.
#[must_use = "dropping it frees the folio"]
pub struct ExclusiveFolio<'t>(FolioBorrow<'t>);

impl<'t> FolioBorrow<'t> {
    #[inline]
    pub(super) fn new(table: &'t FrameTable, meta: Meta<'t>, index: u64) -> Self {
        Self { table, meta, index }
    }

    #[inline]
    pub(super) fn head(&self) -> &'t Head {
        self.meta.head()
    }

    pub(super) fn flags(&self) -> &'t Flags {
        &self.head().flags
    }

    pub(super) fn queues(&self) -> &'t Queues {
        self.table.queues()
    }

    /// Its first frame's place in the pool, in frames.
    #[must_use]
    #[inline]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Its size.
    #[must_use]
    #[inline]
    pub fn size(&self) -> PageSize {
        match self.meta {
            Meta::Huge(_) => PageSize::Huge,
            Meta::Base(_) => PageSize::Base,
        }
    }

    /// References to it a moment ago, those of page-table entries included; zero if it is exclusive or free.
    #[must_use]
    pub fn references(&self) -> u32 {
        self.head().references.get()
    }

    /// One more reference. The folio must have one, as it does while the borrow is valid and it is not exclusive.
    #[inline]
    pub fn get(self) -> FolioRef<'t> {
        self.get_many(1);
        FolioRef(self)
    }

    /// As many more references as `count`, for page-table entries that will own them.
    #[inline]
    pub fn get_many(self, count: u32) {
        self.head().references.add(count);
    }

    /// Takes over a reference that was [leaked](FolioRef::leak), from the page-table entry that owned it.
    #[inline]
    pub fn adopt(self) -> FolioRef<'t> {
        FolioRef(self)
    }

    /// Gives back `count` references that page-table entries owned. The folio, if they were the last.
    #[must_use = "dropping it frees the folio"]
    pub fn put_many(self, count: u32) -> Option<ExclusiveFolio<'t>> {
        self.head().references.sub(count).then(|| ExclusiveFolio(self))
    }

    /// Counts a mapping of the whole folio by one page-table entry.
    pub fn map_huge(&self) {
        match self.meta {
            Meta::Huge(block) => block.mapcount.map_huge(),
            Meta::Base(_) => self.map_page(0),
        }
    }

    /// A mapping of the whole folio by one page-table entry is gone.
    pub fn unmap_huge(&self) {
        match self.meta {
            Meta::Huge(block) => block.mapcount.unmap_huge(),
            Meta::Base(_) => self.unmap_page(0),
        }
    }

    /// Counts a mapping of its page `page`; a base folio has only one.
    pub fn map_page(&self, page: usize) {
        match self.meta {
            Meta::Huge(block) => block.mapcount.map_page(page),
            // Release: pairs with the Acquire in `mapcount`.
            Meta::Base(base) => drop(base.mapcount.fetch_add(1, Release)),
        }
    }

    /// A mapping of its page `page` is gone; a base folio has only one.
    pub fn unmap_page(&self, page: usize) {
        match self.meta {
            Meta::Huge(block) => block.mapcount.unmap_page(page),
            Meta::Base(base) => {
                // Release: pairs with the Acquire in `mapcount`.
                let before = base.mapcount.fetch_sub(1, Release);
                debug_assert!(before > 0, "a mapping of a page goes that never came");
            }
        }
    }

    /// One huge mapping becomes a mapping of each page. The new mappings' references are the caller's to
    /// [get](Self::get_many), before it calls this. A base folio's mapping stays what it is.
    pub fn split_mapping(&self) {
        if let Meta::Huge(block) = self.meta {
            block.mapcount.split();
        }
    }

    /// Page-table entries that map its page `page`, huge ones included; a base folio has only one page.
    ///
    /// Lock-free, and true at one time during the call, whatever goes on; so are the two below, but for what
    /// [`largest_mapcount`](Self::largest_mapcount) says.
    #[must_use]
    #[inline]
    pub fn mapcount(&self, page: usize) -> u32 {
        match self.meta {
            Meta::Huge(block) => block.mapcount.page(page),
            // Acquire: pairs with the Release in `map_page` and `unmap_page`.
            Meta::Base(base) => base.mapcount.load(Acquire),
        }
    }

    /// Page-table entries that map any of it: each owns a reference.
    #[must_use]
    #[inline]
    pub fn total_mapcount(&self) -> u32 {
        match self.meta {
            Meta::Huge(block) => block.mapcount.total(),
            Meta::Base(_) => self.mapcount(0),
        }
    }

    /// The most page-table entries that map one page of it.
    ///
    /// A scan of the pages: while some are being mapped and others unmapped, one by one, each page counts as it was at
    /// some time during the call. Huge mappings and splits do not disturb it.
    #[must_use]
    pub fn largest_mapcount(&self) -> u32 {
        match self.meta {
            Meta::Huge(block) => block.mapcount.largest(),
            Meta::Base(_) => self.mapcount(0),
        }
    }

    /// Whether its content is in. Once true it stays so until the folio is free.
    #[must_use]
    #[inline]
    pub fn is_uptodate(&self) -> bool {
        self.flags().is_uptodate()
    }

    /// Whether its content may be nowhere else, as whoever wrote it has said. True until the folio is free.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.flags().is_dirty()
    }

    /// Says that its content may be nowhere else; for whoever has a reference, and still has it when this returns.
    pub fn set_dirty(&self) {
        self.flags().set_dirty();
    }
}

impl<'t> FolioRef<'t> {
    #[inline]
    pub(super) fn new(folio: FolioBorrow<'t>) -> Self {
        Self(folio)
    }

    /// Takes the folio for this thread alone if there are exactly `expected` references, this one and those that
    /// page-table entries own: then nobody has pinned it, nor is about to.
    ///
    /// # Errors
    /// There are more, or fewer: the reference as it was.
    pub fn freeze(self, expected: u32) -> Result<ExclusiveFolio<'t>, Self> {
        if self.0.head().references.freeze(expected) { Ok(ExclusiveFolio(self.leak())) } else { Err(self) }
    }

    /// Leaves the reference to a page-table entry, which owns it by number. [`FolioBorrow::adopt`] takes it back.
    #[inline]
    #[expect(clippy::must_use_candidate, reason = "what counts is that the reference is not given back")]
    pub fn leak(self) -> FolioBorrow<'t> {
        ManuallyDrop::new(self).0
    }

    /// Gives the reference back. The folio, if it was the last; it does not go to the table's release then.
    #[must_use = "dropping it frees the folio"]
    pub fn put(self) -> Option<ExclusiveFolio<'t>> {
        self.leak().put_many(1)
    }

    /// Waits for the folio lock.
    ///
    /// # Panics
    /// In builds with debug assertions, when a lock is held that is not above the folio lock.
    pub fn lock(&self) -> FolioLockGuard<'_> {
        FolioLockGuard::lock(self.0)
    }

    /// Takes the folio lock if that is possible at once.
    #[must_use]
    pub fn try_lock(&self) -> Option<FolioLockGuard<'_>> {
        FolioLockGuard::try_lock(self.0)
    }
}

impl Clone for FolioRef<'_> {
    #[inline]
    fn clone(&self) -> Self {
        self.0.get()
    }
}

impl Drop for FolioRef<'_> {
    #[inline]
    fn drop(&mut self) {
        if !loom_unwinds() && self.0.head().references.sub(1) {
            self.0.table.release(ExclusiveFolio(self.0));
        }
    }
}

impl<'t> ExclusiveFolio<'t> {
    pub(super) fn new(folio: FolioBorrow<'t>) -> Self {
        Self(folio)
    }

    /// Lets others have references again: there are `count`, of which one is returned and the others are owned, by
    /// number, by page-table entries. A `count` of zero is one of one.
    pub fn unfreeze(self, count: u32) -> FolioRef<'t> {
        let folio = ManuallyDrop::new(self).0;
        folio.head().references.unfreeze(count.max(1));
        FolioRef(folio)
    }

    /// Says that the content is in.
    pub fn set_uptodate(&self) {
        self.0.flags().set_uptodate();
    }

    /// Says that the content is not in.
    pub fn clear_uptodate(&self) {
        self.0.flags().clear_uptodate();
    }

    /// Ends the folio's use. From now on its frames can be claimed again.
    pub fn free(self) {
        drop(self);
    }
}

impl Drop for ExclusiveFolio<'_> {
    fn drop(&mut self) {
        if !loom_unwinds() {
            debug_assert_eq!(self.total_mapcount(), 0, "a mapped folio is freed");
            self.0.flags().free();
        }
    }
}

impl<'t> Deref for FolioRef<'t> {
    type Target = FolioBorrow<'t>;

    #[inline]
    fn deref(&self) -> &FolioBorrow<'t> {
        &self.0
    }
}

impl<'t> Deref for ExclusiveFolio<'t> {
    type Target = FolioBorrow<'t>;

    fn deref(&self) -> &FolioBorrow<'t> {
        &self.0
    }
}

impl fmt::Debug for FolioBorrow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folio")
            .field("index", &format_args!("{:#x}", self.index))
            .field("size", &self.size())
            .field("references", &self.references())
            .field("mapcount", &self.total_mapcount())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for FolioRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FolioRef").field(&self.0).finish()
    }
}

impl fmt::Debug for ExclusiveFolio<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExclusiveFolio").field(&self.0).finish()
    }
}
