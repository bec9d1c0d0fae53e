//! A kernel packed into a bzImage, as Linux's build does it.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

/// The code for real mode, which nobody runs here: its header's sectors.
const SETUP: usize = 2 * 512;
/// The code that unpacks a kernel, which nobody runs here either.
const STUB: usize = 4096;

/// A bzImage with `vmlinux` in it, packed by gzip. It says that it needs `memory_bytes` of RAM from 1 MiB on.
///
/// # Panics
/// If its sizes do not fit into its header.
#[must_use]
#[track_caller]
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
pub fn bzimage(vmlinux: &[u8], memory_bytes: u32) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(vmlinux).expect("memory can be written");
    let payload = packed.finish().expect("memory can be written");
    let word = |number: usize| u32::try_from(number).expect("a kernel of less than 4 GiB").to_le_bytes();
    let body = (STUB + payload.len()).next_multiple_of(16);

    let mut file = vec![0; SETUP + body];
    for (at, field) in [
        // Sectors of setup but the first, paragraphs of the rest, and what makes it a boot sector.
        (0x1f1, &[1][..]),
        (0x1f4, &word(body / 16)),
        (0x1fe, &[0x55, 0xaa]),
        // Version 2.15 of the protocol; above 1 MiB; with an entry for 64 bits; its command line.
        (0x202, b"HdrS\x0f\x02"),
        (0x211, &[1]),
        (0x22c, &word(0x7fff_ffff)),
        (0x236, &[1, 0]),
        (0x238, &word(2047)),
        // The kernel in it, and where that goes.
        (0x248, &word(STUB)),
        (0x24c, &word(payload.len())),
        (0x258, &(1_u64 << 20).to_le_bytes()),
        (0x260, &memory_bytes.to_le_bytes()),
        (SETUP + STUB, &payload),
    ] {
        file[at..at + field.len()].copy_from_slice(field);
    }
    file
}
