//! The numbers that pools have in [`Pfn`](crate::Pfn)s.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

const BITS: u16 = 64;
const WORDS: u16 = 1024;

/// A bit for each number in use. `std`'s under loom as well: loom has no statics.
static USED: [AtomicU64; WORDS as usize] = [const { AtomicU64::new(0) }; WORDS as usize];

/// A number that no other pool of this process has; free again when this is dropped.
#[derive(Debug)]
pub(super) struct PoolNumber(u16);

impl PoolNumber {
    /// The lowest free number; `None` if all 65536 are in use.
    pub(super) fn new() -> Option<Self> {
        (0..WORDS).zip(&USED).find_map(|(at, word)| {
            loop {
                let free = (0..BITS).find(|bit| word.load(Relaxed) & (1 << bit) == 0)?;
                // Acquire: pairs with the Release in `drop`, so that the old pool is gone before the new one is made.
                if word.fetch_or(1 << free, Acquire) & (1 << free) == 0 {
                    return Some(Self(at * BITS + free));
                }
            }
        })
    }

    pub(super) fn get(&self) -> u16 {
        self.0
    }
}

impl Drop for PoolNumber {
    fn drop(&mut self) {
        let word = &USED[usize::from(self.0 / BITS)];
        // Release: pairs with the Acquire in `new`.
        word.fetch_and(!(1 << (self.0 % BITS)), Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_pools_have_one_number() {
        let numbers: Vec<_> = (0..200).map(|_| PoolNumber::new().unwrap()).collect();

        let mut distinct: Vec<_> = numbers.iter().map(PoolNumber::get).collect();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), numbers.len());
    }
}
