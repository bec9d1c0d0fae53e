//! What is known of one stretch.

use std::ops::Range;

use mmu_notifier::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use super::{Commitment, budget::Charge};

/// A stretch as the pool sees it, or, with no blocks, the frames of none.
#[derive(Debug)]
pub(super) struct Account {
    /// The blocks of which it can take frames.
    blocks: Range<u64>,
    /// The order of its addresses.
    order: u32,
    commitment: Commitment,
    pub(super) charge: Charge,
    /// The block that was taken from last. A hint: nothing depends on how old it is.
    cursor: AtomicU64,
    /// The first block behind the cursor that is not ready. A hint, too.
    ready: AtomicU64,
    /// It ended. Set once, before its blocks are stripped under their locks: who locks one afterwards sees it.
    closed: AtomicBool,
}

impl Account {
    pub(super) fn new(blocks: Range<u64>, order: u32, commitment: Commitment) -> Self {
        Self {
            order,
            commitment,
            charge: Charge::default(),
            cursor: AtomicU64::new(blocks.start),
            ready: AtomicU64::new(blocks.start),
            closed: AtomicBool::new(false),
            blocks,
        }
    }

    pub(super) fn blocks(&self) -> Range<u64> {
        self.blocks.clone()
    }

    pub(super) fn order(&self) -> u32 {
        self.order
    }

    pub(super) fn is_promised(&self) -> bool {
        self.commitment == Commitment::Promised
    }

    pub(super) fn cursor(&self) -> u64 {
        self.cursor.load(Relaxed)
    }

    /// Frames of `block` were taken; says whether fewer than `low` blocks behind it are ready.
    #[inline]
    pub(super) fn advance(&self, block: u64, low: u64) -> bool {
        self.cursor.store(block, Relaxed);
        self.ready.load(Relaxed).saturating_sub(block + 1) < low
    }

    /// All blocks from the cursor to `end` are ready.
    pub(super) fn set_ready(&self, end: u64) {
        self.ready.store(end, Relaxed);
    }

    pub(super) fn close(&self) {
        // Release: pairs with the Acquire in `is_open`.
        self.closed.store(true, Release);
    }

    /// Whether frames may be zeroed ahead for it.
    pub(super) fn is_open(&self) -> bool {
        // Acquire: pairs with the Release in `close`.
        !self.blocks.is_empty() && !self.closed.load(Acquire)
    }
}
