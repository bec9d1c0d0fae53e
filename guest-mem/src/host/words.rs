//! Copies to and from memory that others write at the same time: guests, and devices.
//!
//! Word by word, each word whole: what was written meanwhile is seen or not, and nothing else can come of it. To the
//! compiler a plain copy of such memory would be a data race. Nobody orders anything by these words, so all accesses are
//! Relaxed and have no partner.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// Copies `bytes` to `to`.
///
/// # Safety
/// `to` leads to as many bytes that may be written and to which no Rust reference exists.
pub(super) unsafe fn copy_in(to: *mut u8, bytes: &[u8]) {
    let (words, rest) = if is_aligned(to) { bytes.as_chunks::<WORD>() } else { (&[][..], bytes) };
    for (at, word) in words.iter().enumerate() {
        // SAFETY: `at` words behind `to` is within the bytes that the caller vouches for, whose first is aligned.
        let place = unsafe { AtomicU64::from_ptr(word_at(to, at)) };
        place.store(u64::from_ne_bytes(*word), Relaxed);
    }
    let to = to.wrapping_add(words.len() * WORD);
    for (at, byte) in rest.iter().enumerate() {
        // SAFETY: as above; a byte is always aligned.
        let place = unsafe { AtomicU8::from_ptr(to.wrapping_add(at)) };
        place.store(*byte, Relaxed);
    }
}

/// Copies what is at `from` to `bytes`.
///
/// # Safety
/// `from` leads to as many bytes that may be read and written, and to which no Rust reference exists.
pub(super) unsafe fn copy_out(from: *mut u8, bytes: &mut [u8]) {
    let aligned = is_aligned(from);
    let (words, rest) = if aligned { bytes.as_chunks_mut::<WORD>() } else { (&mut [][..], bytes) };
    for (at, word) in words.iter_mut().enumerate() {
        // SAFETY: `at` words behind `from` is within the bytes that the caller vouches for, whose first is aligned.
        let place = unsafe { AtomicU64::from_ptr(word_at(from, at)) };
        *word = place.load(Relaxed).to_ne_bytes();
    }
    let from = from.wrapping_add(words.len() * WORD);
    for (at, byte) in rest.iter_mut().enumerate() {
        // SAFETY: as above; a byte is always aligned.
        let place = unsafe { AtomicU8::from_ptr(from.wrapping_add(at)) };
        *byte = place.load(Relaxed);
    }
}

/// Whether words can be copied from `start` on.
fn is_aligned(start: *mut u8) -> bool {
    start.addr().is_multiple_of(WORD)
}

/// The word at so many words behind `start`, which is aligned.
#[expect(clippy::cast_ptr_alignment, reason = "the caller has looked")]
fn word_at(start: *mut u8, words: usize) -> *mut u64 {
    start.cast::<u64>().wrapping_add(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_wherever_they_begin_and_however_many_they_are() {
        let source: Vec<u8> = (1..=64).collect();
        for start in 0..9 {
            for len in 0..40 {
                let mut memory = [0_u64; 8];
                let base = memory.as_mut_ptr().cast::<u8>();
                let mut back = vec![0; len];

                // SAFETY: 48 bytes of 64 at the most, which nobody else refers to meanwhile.
                unsafe { copy_in(base.wrapping_add(start), &source[..len]) };
                // SAFETY: as above.
                unsafe { copy_out(base.wrapping_add(start), &mut back) };

                assert_eq!(back, source[..len], "{len} bytes from {start} on");
                let all: Vec<u8> = memory.iter().flat_map(|word| word.to_ne_bytes()).collect();
                assert!(all[..start].iter().chain(&all[start + len..]).all(|byte| *byte == 0), "{all:?}");
            }
        }
    }
}
