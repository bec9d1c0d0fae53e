//! Guests of a few instructions, as ELF files that are booted like kernels: at 1 MiB, in 64-bit mode.

use std::{fs, path::Path};

/// Where they are.
const START: u64 = 1 << 20;
const FILE_HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;

/// An x86_64 ELF file with `code`, which takes `memory_bytes` of guest RAM.
#[must_use]
pub fn tiny_kernel(code: &[u8], memory_bytes: u64) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    file.extend(START.to_le_bytes());
    file.extend(u64::from(FILE_HEADER).to_le_bytes());
    file.extend([0; 12]);
    for half in [FILE_HEADER, PROGRAM_HEADER, 1, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    let offset = u64::from(FILE_HEADER + PROGRAM_HEADER);
    for word in [offset, START, START, code.len() as u64, memory_bytes, 4096] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

/// Writes a guest of `code` to `path`.
///
/// # Panics
/// If it cannot be written.
#[track_caller]
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
pub fn write_tiny_kernel(path: &Path, code: &[u8]) {
    fs::write(path, tiny_kernel(code, code.len() as u64)).expect("a file can be written");
}
