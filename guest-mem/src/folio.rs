//! Metadata of frames, and the three kinds of reference to them.
//!
//! A *folio* is a frame of 4 KiB, or a block of 2 MiB used as one. [`FrameTable`] has the metadata of all the frames
//! of a pool: how many references there are to a folio, how often page tables map it, whether it is locked, whether
//! its content is in. It is made with the range that is first used and never freed before the table, so that a thread
//! with a stale frame number meets valid metadata, and finds out.
//!
//! | type | stands for |
//! |---|---|
//! | [`FolioRef`] | one reference: the frame is not freed, moved or reused while it lives |
//! | [`ExclusiveFolio`] | nobody else has a reference, and nobody can get one |
//! | [`FolioBorrow`] | no reference of its own: valid while a page-table entry that has one cannot change |
//!
//! **References** are speculative, as in Linux's lock-free page cache. Whoever found a frame number without a lock
//! takes a reference if the count is not zero, and then looks again at where the number came from:
//!
//! ```text
//! reader                               remover, under the page-table lock
//! 1. look up the frame number          A. freeze: count == expected, then zero
//! 2. try_get: count + 1, not from 0    B. clear the entry
//! 3. look again; other? put, retry     C. free the frame
//!
//! 2 before A: the count is not what A expects, and the remover gives up
//! A before 2: the count is zero, and the reader finds nothing
//! C before 2, and the frame is in use again: 3 sees the entry cleared
//! ```
//!
//! Every page-table entry owns exactly one reference and one mapcount, so a folio with more references than mapcounts
//! is in use by somebody else (a pin is that: one more reference), and freezing it with its mapcount fails. Memory that
//! several address spaces share has one reference of its own to each of its folios, mapped or not.
//!
//! **Mapcounts** of a huge folio are a count of huge mappings and one of each page's; [`FolioBorrow::mapcount`] is
//! their sum. They are read without a lock, through a sequence count that is described in `folio/mapcount.rs`.
//!
//! **Memory**: 16 bytes for a 4 KiB folio, 64 bytes for a block, 2 KiB more for a huge folio once pages of it were
//! mapped one by one, and 8 bytes for each 128 MiB that a pool could have.

mod handles;
mod lock;
mod mapcount;
mod references;
mod table;

#[cfg(all(test, loom))]
mod models;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

pub use handles::{ExclusiveFolio, FolioBorrow, FolioRef};
pub use lock::FolioLockGuard;
pub use table::{ClaimError, FrameTable};

use crate::frame::BLOCK_PAGES;

/// Pages of a block that have metadata: all, but for loom, which tracks each atomic and each access to it.
/// Models use the first two.
const PAGES: usize = if cfg!(loom) { 2 } else { 512 };

const _: () = assert!(cfg!(loom) || PAGES as u64 == BLOCK_PAGES);
// Indices are masked.
const _: () = assert!(PAGES.is_power_of_two());

/// Whether loom unwinds the threads of a model that failed: its atomics and locks are gone then.
fn loom_unwinds() -> bool {
    cfg!(loom) && std::thread::panicking()
}
