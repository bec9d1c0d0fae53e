//! The memory manager of one guest RAM: an mm in user space.
//!
//! [`Mm`] owns the frames of a guest's RAM and everything that is known of them: VMAs (what was asked for), a page table
//! (what is mapped), folios (who holds a frame). It resolves each fault ([`fault`]), and announces every change to its
//! [`owner`](Mm::owner) before it makes it.
//!
//! ```text
//!   fault                                        discard
//!   VMA lock, or mmap_lock and the VMA lock      mmap_lock, for reading
//!     page-table lock                            start: subscribers stop using the range
//!       entry still none?                          page-table lock: freeze, mark closed, zap
//!       frame, zeroed                            end
//!       host: map                                  page-table lock: frame back, entry none
//!       entry                                    wake whoever faulted meanwhile
//!   wake
//! ```
//!
//! **Placement.** The RAM is one linear stretch of a pool: the frame of a guest page is known from its address, and the
//! window that shows the stretch to the guest is mapped and registered once. Several address spaces may show one stretch
//! ([`SharedMemory`]), each through a window of its own: what they share, and how long it lasts, is in `mm/object.rs`.

mod change;
mod config;
mod discard;
mod error;
mod failures;
mod fault;
mod fill;
mod filler;
mod fills;
mod install;
mod map;
#[cfg(all(test, loom))]
mod models;
mod object;
mod registry;
mod remove;
mod report;
mod shared;
mod shrink;
mod stats;
mod streams;
mod stuck;
mod taken;
#[cfg(all(test, not(loom)))]
mod tests;
mod unmap;
mod window;

pub use change::ChangeError;
pub use config::{FaultAround, MmConfig};
pub use error::{CreateMmError, FaultError};
pub use filler::{FileFiller, Filler};
pub use report::{MmReport, Usage, VmaReport};
pub use shared::SharedMemory;
pub use shrink::Shrunk;
pub use stats::{FaultCount, FaultReason, MmStats};

pub(crate) use fault::{Cause, Resolved, resolve};
pub(crate) use fill::{FillWatch, RunningFill, Scratch};
pub(crate) use fills::Ticket;
pub(crate) use install::{Install, InstallError, NoHost};
pub(crate) use object::MemoryObject;
pub(crate) use window::Window;

use std::{
    fmt, io,
    ops::{ControlFlow, Range},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use mmu_notifier::{
    AddressRange, PAGE_SIZE, Subscriptions,
    sync::{Mutex, Tally},
};

use crate::{
    Gfn, PageSize, Pfn,
    folio::FrameTable,
    pgtable::PageTable,
    pool::{Commitment, FramePool, Stretch},
    rmap::MmId,
    vma::{PageSet, VmaSpec, VmaTree},
};
use failures::Failures;
use stats::Counts;
use streams::Streams;
use stuck::Stuck;

/// An address space of guest-physical addresses whose frames this process runs.
pub struct Mm {
    /// Dropped first: who keeps translations is released before anything goes.
    owner: Subscriptions,
    id: MmId,
    range: AddressRange,
    around: FaultAround,
    streams: Streams,
    vmas: VmaTree,
    table: PageTable,
    folios: Arc<FrameTable>,
    install: Arc<dyn Install>,
    failures: Failures,
    stuck: Stuck,
    /// Held by the one operation that closes entries, from before its start until its frames are back: so an entry that
    /// is closed is its own. Above mmap_lock.
    closing: Mutex<()>,
    /// Pages that were taken away where writes are tracked, since dirty pages were last collected. A leaf.
    changed: Mutex<PageSet>,
    /// Pages that somebody may wait to write, without permission. A leaf; added to under the VMA lock.
    denied: Mutex<PageSet>,
    /// Where the next shrink begins, in bytes from the start. A hint.
    shrink_hand: Tally,
    counts: Counts,
    /// The frame of the first page.
    first: Pfn,
    /// Dropped last: nothing here holds its frames any more.
    object: Arc<MemoryObject>,
}

impl Mm {
    /// Makes an address space without a page in it, which shows `object` from its start on, and makes its entries true
    /// through `install`. Where the first content comes from is up to the object.
    pub(crate) fn new(
        config: &MmConfig,
        object: Arc<MemoryObject>,
        install: Arc<dyn Install>,
    ) -> Result<Arc<Self>, CreateMmError> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = MmId::new(LAST.fetch_add(1, Relaxed) + 1);
        let range = config.range;
        let stretch = object.stretch();
        if range.pages() > stretch.frames() {
            return Err(CreateMmError::Beyond { range, bytes: stretch.frames() * PAGE_SIZE });
        }
        let table = PageTable::new(range)?;
        let vmas = VmaTree::new(id, config.commit_limit.unwrap_or(range.pages()));
        let mapping = Arc::clone(object.mapping());
        let spec = VmaSpec { range, flags: config.flags, name: None, mapping, offset: 0 };
        vmas.insert(&vmas.mmap_lock().write(), spec)?;
        let mm = Arc::new(Self {
            id,
            owner: Subscriptions::new(),
            range,
            around: config.around,
            streams: Streams::new(),
            vmas,
            table,
            folios: Arc::clone(object.folios()),
            install,
            failures: Failures::new(config.patience),
            stuck: Stuck::default(),
            closing: Mutex::new(()),
            changed: Mutex::default(),
            denied: Mutex::default(),
            shrink_hand: Tally::new(),
            counts: Counts::default(),
            first: stretch.start(),
            object,
        });
        registry::add(&mm);
        Ok(mm)
    }

    /// An address space whose host maps nothing: its faults come from whoever calls
    /// [`touch`](Self::touch), the software second stage above all.
    ///
    /// # Errors
    /// [`CreateMmError`].
    pub fn modelled(config: &MmConfig, pool: &Arc<FramePool>) -> Result<Arc<Self>, CreateMmError> {
        config.check()?;
        let stretch = pool.reserve(config.blocks(), Commitment::Overcommitted)?;
        let object = MemoryObject::own(stretch, config.filler.clone(), config.handlers);
        Self::new(config, object, Arc::new(NoHost))
    }

    /// As [`modelled`](Self::modelled), but that it shows `memory`, from its start on: with the other address spaces that
    /// do, and with the memory's filler.
    ///
    /// # Errors
    /// [`CreateMmError`].
    pub fn modelled_on(config: &MmConfig, memory: &SharedMemory) -> Result<Arc<Self>, CreateMmError> {
        config.check()?;
        Self::new(config, Arc::clone(memory.object()), Arc::new(NoHost))
    }

    /// Its number in the reverse map.
    #[must_use]
    pub const fn id(&self) -> MmId {
        self.id
    }

    /// Whom every change is announced to: whoever keeps a translation registers here.
    #[must_use]
    pub const fn owner(&self) -> &Subscriptions {
        &self.owner
    }

    /// The guest-physical addresses, in bytes.
    #[must_use]
    pub const fn range(&self) -> AddressRange {
        self.range
    }

    /// What is mapped.
    #[must_use]
    pub const fn page_table(&self) -> &PageTable {
        &self.table
    }

    /// What was asked for.
    #[must_use]
    pub const fn vmas(&self) -> &VmaTree {
        &self.vmas
    }

    /// The metadata of its frames, and of all others of their pool.
    #[must_use]
    pub fn folios(&self) -> &FrameTable {
        &self.folios
    }

    /// What it shows.
    pub(crate) const fn object(&self) -> &Arc<MemoryObject> {
        &self.object
    }

    /// Its frames' pool.
    #[must_use]
    pub fn pool(&self) -> &Arc<FramePool> {
        self.object.pool()
    }

    /// Its frames, and those of whoever shares them.
    #[must_use]
    pub fn stretch(&self) -> &Stretch {
        self.object.stretch()
    }

    /// What it shows, if others may show it too.
    #[must_use]
    pub fn shared_memory(&self) -> Option<SharedMemory> {
        SharedMemory::of(&self.object)
    }

    /// Whether some pages come from a filler.
    pub(crate) fn has_filler(&self) -> bool {
        self.object.filler().is_some()
    }

    /// Lets whoever waits in `offsets`, in bytes from the start of the window, touch it again.
    pub(crate) fn wake_window(&self, offsets: Range<u64>) -> io::Result<()> {
        self.install.wake(offsets)
    }

    /// The frame that the page `gfn` has whenever it has one.
    pub(crate) fn frame(&self, gfn: Gfn) -> Pfn {
        self.first.plus(gfn.get() - Gfn::of(self.range.start()).get())
    }

    pub(crate) fn frames(&self, pages: &Range<Gfn>) -> Range<Pfn> {
        self.frame(pages.start)..self.frame(pages.end)
    }

    /// The page that has the frame `frame`, one of its own.
    pub(crate) fn page(&self, frame: Pfn) -> Gfn {
        Gfn::of(self.range.start()).plus(frame.index() - self.first.index())
    }

    /// Where `pages` are in the window, in bytes from its start.
    pub(crate) fn offsets(&self, pages: &Range<Gfn>) -> Range<u64> {
        let offset = |gfn: Gfn| gfn.address() - self.range.start();
        offset(pages.start)..offset(pages.end)
    }

    /// The pages that one entry of `size` maps where `gfn` lies.
    pub(crate) fn pages_of(gfn: Gfn, size: PageSize) -> Range<Gfn> {
        match size {
            PageSize::Base => gfn..gfn.plus(1),
            PageSize::Huge => gfn.block()..gfn.block().plus(size.pages()),
        }
    }

    /// Whether the whole 2 MiB range of `gfn` lies in `range`.
    pub(crate) fn block_fits(range: AddressRange, gfn: Gfn) -> bool {
        let start = gfn.block().address();
        range.start() <= start && PageSize::Huge.bytes() <= range.end().saturating_sub(start)
    }

    /// Gives everything back that it has mapped and no device has pinned, for the end.
    fn unmap_all(&self) {
        if let Err(error) = self.free_stuck(self.range) {
            log::error!("frames of guest RAM stay out of use, as the host did not take them back: {error}");
        }
        if self.object.is_shared() {
            if let Err(error) = self.unmap(self.range, &|_, _| true) {
                log::error!("frames of shared memory stay out of use, as it could not be zapped: {error}");
            }
            return;
        }
        let mut kept = 0;
        let closing: ControlFlow<io::Error> =
            self.table.for_each_locked(self.range, |pt, part| match self.close(pt, part) {
                Ok(closed) => {
                    kept += closed.pinned_bytes;
                    ControlFlow::Continue(())
                }
                Err(error) => ControlFlow::Break(error),
            });
        let _nobody_waits = self.free_closed(self.range);
        if let ControlFlow::Break(error) = closing {
            log::error!("frames of guest RAM stay out of use, as it could not be zapped: {error}");
        }
        if kept > 0 {
            log::error!("{kept:#x} bytes of guest RAM are pinned when it goes; their frames stay out of use");
        }
    }
}

impl Drop for Mm {
    fn drop(&mut self) {
        registry::remove(self);
        // Subscribers first, while everything that they may know of is still there.
        drop(std::mem::take(&mut self.owner));
        self.give_up_all_fills();
        self.unmap_all();
    }
}

impl fmt::Debug for Mm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mm")
            .field("range", &self.range)
            .field("mapped", &self.table.mapped())
            .finish_non_exhaustive()
    }
}

/// The range that `pages` are.
pub(crate) fn bytes_of(pages: &Range<Gfn>) -> Option<AddressRange> {
    let count = pages.end.get().checked_sub(pages.start.get())?;
    AddressRange::new(pages.start.address(), count * PAGE_SIZE).ok()
}
