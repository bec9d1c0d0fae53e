//! The guest's code, assembled into this program by its own build.
#![expect(
    unsafe_code,
    reason = "the code lies between two linker symbols, and only the assembler knows how far apart"
)]

use std::{arch::global_asm, slice};

global_asm!(include_str!("../../../resources/guest/fault_driver.s"));

unsafe extern "C" {
    static underlay_guest_start: u8;
    static underlay_guest_end: u8;
}

/// The guest's code: position-independent, entered at its first byte.
#[must_use]
pub fn image() -> &'static [u8] {
    let start = &raw const underlay_guest_start;
    let end = &raw const underlay_guest_end;
    let len = end.addr() - start.addr();
    // SAFETY: both labels stand in one read-only section of this program, the end behind the start, and every byte
    // between them was emitted by the assembler; nothing ever writes there.
    unsafe { slice::from_raw_parts(start, len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_fits_its_page_and_starts_with_a_fence() {
        let image = image();

        assert_eq!(image[..3], [0x0f, 0xae, 0xe8], "LFENCE");
        assert!(image.len() <= 4096, "{} bytes", image.len());
    }
}
