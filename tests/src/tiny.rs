//! Guests of a few instructions, as ELF files that are booted like kernels: at 1 MiB, in 64-bit mode.

use std::{fs, path::Path};

/// Where they are.
const START: u64 = 1 << 20;
const FILE_HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;
const LOAD: u32 = 1;
const NOTE: u32 = 4;
const READ_WRITE_EXECUTE: u32 = 7;
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// An x86_64 ELF file with `code`, which takes `memory_bytes` of guest RAM.
#[must_use]
pub fn tiny_kernel(code: &[u8], memory_bytes: u64) -> Vec<u8> {
    let mut file = file_header(1);
    let offset = u64::from(FILE_HEADER + PROGRAM_HEADER);
    file.extend(program_header(LOAD, offset, START, [code.len() as u64, memory_bytes], 4096));
    file.extend(code);
    file
}

/// The same with a note that has it entered by PVH, in 32-bit mode, which more VMMs know how to do.
#[must_use]
pub fn tiny_pvh_kernel(code: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4_u32, 8, XEN_ELFNOTE_PHYS32_ENTRY] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(START.to_le_bytes());

    let mut file = file_header(2);
    let offset = u64::from(FILE_HEADER + 2 * PROGRAM_HEADER);
    let (note_offset, sizes) = (offset + code.len() as u64, [note.len() as u64; 2]);
    file.extend(program_header(LOAD, offset, START, [code.len() as u64; 2], 4096));
    file.extend(program_header(NOTE, note_offset, START + code.len() as u64, sizes, 4));
    file.extend(code);
    file.extend(note);
    file
}

/// The header of a file with so many program headers after it.
fn file_header(program_headers: u16) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    header.extend(START.to_le_bytes());
    header.extend(u64::from(FILE_HEADER).to_le_bytes());
    header.extend([0; 12]);
    for half in [FILE_HEADER, PROGRAM_HEADER, program_headers, 64, 0, 0] {
        header.extend(half.to_le_bytes());
    }
    header
}

/// What lies at `offset` of the file and is mapped at `address`; `sizes` in the file and in memory.
fn program_header(kind: u32, offset: u64, address: u64, sizes: [u64; 2], align: u64) -> Vec<u8> {
    let mut header = [kind, READ_WRITE_EXECUTE].map(u32::to_le_bytes).concat();
    for word in [offset, address, address, sizes[0], sizes[1], align] {
        header.extend(word.to_le_bytes());
    }
    header
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
