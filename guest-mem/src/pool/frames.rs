//! A pool without its thread: making it, and handing out its addresses.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use mmu_notifier::sync::atomic::{AtomicU32, AtomicU64};

use super::account::Account;
use super::blocks::{Blocks, Slot};
use super::buddy::Buddy;
use super::budget::Budget;
use super::error::{NoFrames, ReserveError, TooFewPages};
use super::locks::TableLock;
use super::number::PoolNumber;
use super::report::Counters;
use super::signal::Signal;
use super::store::{FrameStore, NoStore};
use super::{Commitment, CreatePoolError, FreeError, PoolConfig, PoolMemory, Watermarks};
use crate::folio::FrameTable;
use crate::host::{DirectMap, DirectMapError, Injector, PageKind};
use crate::name::MappingName;
use crate::{BLOCK_PAGES, BLOCK_SIZE, HugePagePool, HugePageSize, Pfn};

/// The logarithm to base 2 of the frames in a block.
const BLOCK_ORDER: u32 = BLOCK_PAGES.ilog2();

/// The frames of a [`FramePool`](super::FramePool), and all that can be done with them.
#[derive(Debug)]
pub struct Frames {
    number: PoolNumber,
    memory: PoolMemory,
    /// What is known of the frames while they are mapped, by whatever address space.
    folios: Arc<FrameTable>,
    pub(super) store: Box<dyn FrameStore>,
    pub(super) blocks: Blocks,
    /// Which addresses are free.
    addresses: TableLock<Buddy>,
    pub(super) budget: TableLock<Budget>,
    /// The stretches, by their first blocks.
    stretches: TableLock<BTreeMap<u64, Arc<Account>>>,
    /// The frames of no stretch.
    loose: Arc<Account>,
    pub(super) counters: Counters,
    pub(super) watermarks: Option<Watermarks>,
    /// The share of the low watermark that a stretch has. A hint.
    pub(super) low: AtomicU64,
    /// Takers that the host or the budget denied memory: nothing is populated ahead meanwhile.
    pub(super) denied: AtomicU32,
    pub(super) signal: Signal,
}

impl Frames {
    pub(super) fn new(config: &PoolConfig, injector: &Injector) -> Result<Self, CreatePoolError> {
        let map = |kind, len| -> Result<Box<dyn FrameStore>, CreatePoolError> {
            let (name, capacity) = (MappingName::new(&config.name, "pool"), config.capacity);
            let map = DirectMap::new(name.as_c_str(), len, kind, injector);
            Ok(Box::new(map.map_err(|error| match error {
                DirectMapError::Memfd(source) => CreatePoolError::Memfd { capacity, source },
                DirectMapError::Map(source) => CreatePoolError::Map { capacity, source },
                DirectMapError::Advise(source) => CreatePoolError::Advise(source),
            })?))
        };
        Self::on(config, |len| match config.memory {
            PoolMemory::Shmem => map(PageKind::Shmem, len),
            PoolMemory::ShmemHuge => map(PageKind::ShmemHuge, len),
            PoolMemory::Hugetlb => map(PageKind::Hugetlb, len),
            PoolMemory::None => Ok(Box::new(NoStore)),
        })
    }

    /// The same, on what `store` makes of so many bytes.
    pub(super) fn on(
        config: &PoolConfig,
        store: impl FnOnce(u64) -> Result<Box<dyn FrameStore>, CreatePoolError>,
    ) -> Result<Self, CreatePoolError> {
        let PoolConfig { memory, capacity, budget, stock, .. } = *config;
        if let Some(Watermarks { low, high }) = stock.filter(|stock| stock.low > stock.high) {
            return Err(CreatePoolError::Watermarks { low, high });
        }
        let blocks = capacity.bytes().div_ceil(BLOCK_SIZE);
        let frames = blocks * BLOCK_PAGES;
        if frames > Pfn::MAX_FRAMES {
            return Err(CreatePoolError::TooLarge { capacity });
        }
        let number = PoolNumber::new().ok_or(CreatePoolError::TooMany)?;
        Ok(Self {
            number,
            memory,
            folios: Arc::new(FrameTable::new(frames)),
            store: store(blocks * BLOCK_SIZE)?,
            blocks: Blocks::new(blocks),
            addresses: TableLock::new(Buddy::new(frames)),
            budget: TableLock::new(Budget::new(
                budget.map(|budget| budget.bytes() / mmu_notifier::PAGE_SIZE),
            )),
            stretches: TableLock::default(),
            loose: Arc::new(Account::new(0..0, 0, Commitment::Overcommitted)),
            counters: Counters::default(),
            watermarks: stock,
            low: AtomicU64::new(stock.map_or(0, |stock| stock.low)),
            denied: AtomicU32::new(0),
            signal: Signal::default(),
        })
    }

    /// The number that its [`Pfn`]s carry; no two pools of this process have the same one at the same time.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number.get()
    }

    /// How many frames have an address in it: a multiple of 512.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.blocks.len() * BLOCK_PAGES
    }

    /// Where its frames come from.
    #[must_use]
    pub fn memory(&self) -> PoolMemory {
        self.memory
    }

    /// The metadata of its frames: how many references there are to each, and how many page-table entries map it, over all
    /// address spaces.
    #[must_use]
    pub fn folios(&self) -> &Arc<FrameTable> {
        &self.folios
    }

    /// The memory file, to be mapped as guest RAM: the byte [`Pfn::offset`] is the frame's first. `None` without memory.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.store.fd()
    }

    /// Its first frame.
    pub(super) fn first(&self) -> Pfn {
        Pfn::new(self.number(), 0)
    }

    /// Whether frames are populated and punched in whole blocks.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.memory, PoolMemory::ShmemHuge | PoolMemory::Hugetlb)
    }

    /// Sets the addresses of 2^`order` frames aside, aligned to as many; they belong to no stretch.
    ///
    /// # Errors
    /// [`NoFrames`].
    pub fn alloc(&self, order: u32) -> Result<Pfn, NoFrames> {
        let index = self.addresses.write().alloc(order).ok_or(NoFrames { order })?;
        Ok(Pfn::new(self.number(), index))
    }

    /// Returns the addresses that [`alloc`](Self::alloc) set aside.
    ///
    /// # Errors
    /// [`FreeError`].
    pub fn free(&self, start: Pfn, order: u32) -> Result<(), FreeError> {
        let not_allocated = || FreeError::NotAllocated { start, order };
        let frames = 1_u64.checked_shl(order).ok_or_else(not_allocated)?;
        if start < self.first() || start.pool() != self.number() {
            return Err(not_allocated());
        }
        let end = start.index().saturating_add(frames).min(self.frames());
        if let Some(taken) = self.first_taken(start.index()..end) {
            return Err(FreeError::Taken(taken));
        }
        self.addresses.write().free(start.index(), order).map_err(|_| not_allocated())
    }

    /// Makes a stretch of `blocks` blocks.
    pub(super) fn open(&self, blocks: u64, commitment: Commitment) -> Result<Arc<Account>, ReserveError> {
        if blocks == 0 {
            return Err(ReserveError::Empty);
        }
        let rounded = blocks.checked_next_power_of_two().unwrap_or(u64::MAX);
        let order = rounded.ilog2() + BLOCK_ORDER;
        let index =
            self.addresses.write().alloc(order).ok_or(ReserveError::NoAddresses { blocks: rounded })?;
        let first = index / BLOCK_PAGES;
        let account = Arc::new(Account::new(first..first + blocks, order, commitment));
        // Before anything is looked up here, and stripped of what others left behind after that: see `account`.
        self.stretches.write().insert(first, Arc::clone(&account));
        self.strip(first..first + rounded);
        if account.is_promised()
            && let Err(error) = self.reclaiming(|| self.promise(&account))
        {
            self.retire(&account);
            return Err(error);
        }
        self.share_stock();
        self.signal.kick();
        Ok(account)
    }

    /// Ends a stretch.
    pub(super) fn close(&self, account: &Account) {
        account.close();
        if account.is_promised() && self.memory == PoolMemory::Hugetlb {
            self.forget_promise(account.blocks());
        }
        self.retire(account);
    }

    /// Takes back all that a stretch has, of which nothing is promised by the kernel any more but what is resident.
    fn retire(&self, account: &Account) {
        account.close();
        let blocks = account.blocks();
        let left = self.strip(blocks.clone());
        self.budget.write().withdraw(&account.charge);
        if left == 0 {
            self.stretches.write().remove(&blocks.start);
            self.return_addresses(account);
        } else {
            log::error!("{left} frames of a stretch of pool {} are still taken at its end", self.number());
        }
        self.share_stock();
    }

    /// The stretches that are open.
    pub(super) fn open_stretches(&self) -> Vec<Arc<Account>> {
        self.stretches.read().values().filter(|account| account.is_open()).map(Arc::clone).collect()
    }

    /// Whose block that is.
    ///
    /// The worker may ask so late that the stretch has ended, and leave the ended one in the slot, or none. The next
    /// stretch is in the list before it strips the slot of that, so from then on everybody finds the new one.
    pub(super) fn account<'a>(&self, slot: &'a mut Slot, block: u64) -> &'a Arc<Account> {
        slot.account.get_or_insert_with(|| {
            let stretches = self.stretches.read();
            let before = stretches.range(..=block).next_back().map(|(_, account)| account);
            Arc::clone(before.filter(|account| account.blocks().contains(&block)).unwrap_or(&self.loose))
        })
    }

    fn promise(&self, account: &Account) -> Result<(), ReserveError> {
        let blocks = account.blocks();
        let count = blocks.end - blocks.start;
        self.budget.write().promise(&account.charge, count * BLOCK_PAGES)?;
        self.store.promise(blocks.start * BLOCK_SIZE..blocks.end * BLOCK_SIZE).map_err(|source| {
            self.budget.write().withdraw(&account.charge);
            match (source.raw_os_error(), HugePagePool::read(HugePageSize::Mb2)) {
                (Some(libc::ENOMEM), Ok(pool)) => TooFewPages { needed: count, pool, source }.into(),
                _ => ReserveError::Host(source),
            }
        })
    }

    /// Gives up what the kernel has set aside for absent huge pages: only populating them uses it up.
    fn forget_promise(&self, blocks: Range<u64>) {
        for block in blocks {
            let slot = self.blocks.touch(block).write();
            let bytes = block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE;
            if slot.block.holding().present > 0 {
                continue;
            }
            let forgotten = self.store.populate(bytes.clone()).and_then(|()| self.store.punch(bytes));
            if let Err(error) = forgotten {
                log::warn!("a huge page stays set aside for pool {}: {error}", self.number());
            }
        }
    }

    fn return_addresses(&self, account: &Account) {
        let first = account.blocks().start * BLOCK_PAGES;
        if self.addresses.write().free(first, account.order()).is_err() {
            log::error!("the addresses of a stretch of pool {} were free already", self.number());
        }
    }

    /// Divides the stock among the stretches.
    fn share_stock(&self) {
        if let Some(watermarks) = self.watermarks {
            let share = watermarks.share(self.open_stretches().len() as u64);
            self.low.store(share.low, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Returns the free frames of `blocks` to the host and forgets whose they were; says how many are still taken.
    fn strip(&self, blocks: Range<u64>) -> u64 {
        let mut left = 0;
        for (block, slot) in self.blocks.touched(blocks) {
            let mut slot = slot.write();
            let free = slot.block.free_present();
            if let Err(error) = self.punch(&mut slot, block, free) {
                log::error!("frames of pool {} cannot be returned to the host: {error}", self.number());
            }
            let holding = slot.block.holding();
            left += holding.used;
            if holding.present == 0 {
                slot.account = None;
            }
        }
        left
    }
}
