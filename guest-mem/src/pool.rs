//! Frames of guest RAM: one sparse memory file, its direct map, and who has which frame.
//!
//! A [`FramePool`] has addresses, the [`Pfn`](crate::Pfn)s, and memory behind some of them. Addresses are handed out
//! by a buddy allocator: a [`Stretch`] to each VM, and single runs ([`alloc`](Frames::alloc)). They cost nothing. A
//! frame costs memory from the time it is populated until it is punched; in between it may be taken and given back
//! many times.
//!
//! ```text
//!             populate                  take
//! absent ----------------> free, zero ---------> taken
//!   ^                         ^                    |
//!   |                         | zero               | give_back
//!   |          punch          |                    v
//!   +-------------------------+--------------- free, stale
//! ```
//!
//! A worker zeroes frames before they are taken and punches those that are too many ([`Watermarks`]). Without a
//! worker what is given back is punched at once.
//!
//! The owner of a frame is whoever took it, and nobody else touches it. The pool reads and writes frames through the
//! direct map, a mapping of the whole file that no guest sees.

mod access;
mod account;
mod ahead;
mod block;
mod blocks;
mod buddy;
mod budget;
mod config;
mod error;
mod frame_set;
mod frames;
mod locks;
mod number;
mod report;
mod signal;
mod span;
mod stock;
mod store;
mod stretch;
mod take;
mod worker;

#[cfg(all(test, not(loom)))]
mod tests;

use std::ops::Deref;
use std::sync::Arc;

pub use config::{Commitment, PoolConfig, PoolMemory, Watermarks};
pub use error::{
    BadFrames, CreatePoolError, FrameError, FreeError, NoFrames, OverBudget, ReserveError, TakeError,
    TooFewPages,
};
pub use frames::Frames;
pub use report::{PoolReport, UsageReport};
pub(crate) use store::FrameStore;
pub use stretch::Stretch;
pub use take::Stocked;

use crate::host::Injector;
use worker::Worker;

/// A pool of [`Frames`], and the thread that zeroes them ahead.
#[derive(Debug)]
pub struct FramePool {
    frames: Arc<Frames>,
    worker: Option<Worker>,
}

impl FramePool {
    /// Makes a pool, of which nothing is resident yet.
    ///
    /// # Errors
    /// [`CreatePoolError`]; nothing is left behind.
    pub fn new(config: &PoolConfig) -> Result<Arc<Self>, CreatePoolError> {
        Self::unless_injected(config, &Injector::none())
    }

    /// The same, but for the calls that `injector` has fail.
    pub(crate) fn unless_injected(
        config: &PoolConfig,
        injector: &Injector,
    ) -> Result<Arc<Self>, CreatePoolError> {
        let frames = Arc::new(Frames::new(config, injector)?);
        let worker = match config.stock {
            Some(_) => Some(Worker::start(&frames, injector).map_err(CreatePoolError::Thread)?),
            None => None,
        };
        Ok(Arc::new(Self { frames, worker }))
    }

    /// A pool without a worker, whose memory is `store`.
    #[cfg(all(test, loom))]
    pub(crate) fn on(config: &PoolConfig, store: Box<dyn FrameStore>) -> Result<Arc<Self>, CreatePoolError> {
        let frames = Arc::new(Frames::on(config, |_| Ok(store))?);
        Ok(Arc::new(Self { frames, worker: None }))
    }

    /// Sets `blocks` 2 MiB blocks aside for one owner.
    ///
    /// # Errors
    /// [`ReserveError`]; nothing is set aside.
    pub fn reserve(self: &Arc<Self>, blocks: u64, commitment: Commitment) -> Result<Stretch, ReserveError> {
        let account = self.frames.open(blocks, commitment)?;
        Ok(Stretch { pool: Arc::clone(self), account })
    }

    /// Sleeps until as much is zeroed ahead as shall and can be, and no more is free than shall be. At once without a
    /// worker.
    pub fn wait_until_stocked(&self) {
        if self.worker.is_some() {
            self.frames.signal.wait_until_resting();
        }
    }
}

impl Deref for FramePool {
    type Target = Frames;

    fn deref(&self) -> &Frames {
        &self.frames
    }
}
