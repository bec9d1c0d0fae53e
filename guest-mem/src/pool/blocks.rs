//! The blocks of a pool: made, some at a time, when the first of them is touched.

use std::ops::Range;
use std::sync::Arc;

use once_cell::race::OnceBox;

use super::account::Account;
use super::block::Block;
use super::locks::BlockLock;

/// Blocks that are made together: 128 MiB of frames.
const CHUNK: u64 = Chunk::LEN as u64;

/// A block, and whose it is.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) block: Block,
    /// Its memory is one huge page.
    pub(super) huge: bool,
    /// Looked up when it is first needed; who ends the account takes it away.
    pub(super) account: Option<Arc<Account>>,
}

/// All blocks of a pool. A block that was touched is never freed before the pool.
#[derive(Debug)]
pub(super) struct Blocks {
    chunks: Box<[OnceBox<Chunk>]>,
    blocks: u64,
}

#[derive(Debug)]
struct Chunk([BlockLock<Slot>; Chunk::LEN]);

impl Chunk {
    /// loom tracks the lock of each.
    const LEN: usize = if cfg!(loom) { 2 } else { 64 };
}

impl Blocks {
    pub(super) fn new(blocks: u64) -> Self {
        Self { chunks: (0..blocks.div_ceil(CHUNK)).map(|_| OnceBox::new()).collect(), blocks }
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.blocks
    }

    /// The block numbered `block`, which is one of the pool's.
    #[inline]
    pub(super) fn touch(&self, block: u64) -> &BlockLock<Slot> {
        let (chunk, at) = place(block);
        let new = || Box::new(Chunk(std::array::from_fn(|_| BlockLock::default())));
        &self.chunks[chunk].get_or_init(new).0[at]
    }

    /// The block numbered `block`, if it, or one near it, was ever touched.
    pub(super) fn get(&self, block: u64) -> Option<&BlockLock<Slot>> {
        let (chunk, at) = place(block);
        Some(&self.chunks.get(chunk)?.get()?.0[at])
    }

    /// The blocks of `range` that were ever touched, and some near those, ascending.
    pub(super) fn touched(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &BlockLock<Slot>)> {
        let range = range.start..range.end.min(self.blocks);
        let chunks = range.start / CHUNK..range.end.div_ceil(CHUNK);
        let made = chunks.filter(|&chunk| self.get(chunk * CHUNK).is_some());
        made.flat_map(|chunk| chunk * CHUNK..(chunk + 1) * CHUNK)
            .filter(move |block| range.contains(block))
            .filter_map(|block| Some((block, self.get(block)?)))
    }
}

/// The place of `block`: its chunk, and where in it.
#[inline]
fn place(block: u64) -> (usize, usize) {
    // A pool has at most 2^27 blocks.
    let block = usize::try_from(block).unwrap_or(usize::MAX);
    (block / Chunk::LEN, block % Chunk::LEN)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_a_touch_is_made() {
        let blocks = Blocks::new(10 * CHUNK + 7);

        blocks.touch(3 * CHUNK + 5);
        blocks.touch(10 * CHUNK + 1);

        let touched: Vec<_> = blocks.touched(0..u64::MAX).map(|(block, _)| block).collect();
        let expected: Vec<_> = (3 * CHUNK..4 * CHUNK).chain(10 * CHUNK..10 * CHUNK + 7).collect();
        assert_eq!(touched, expected);
        assert_eq!(blocks.touched(3 * CHUNK + 1..3 * CHUNK + 3).count(), 2);
        assert_eq!(blocks.touched(0..3 * CHUNK).count(), 0);
    }
}
