use std::io::Cursor;

use proptest::{collection::vec, prelude::*};
use vm_memory::{Bytes, GuestMemoryMmap};

use super::*;
use crate::boot::testing::{Segment, bzimage, bzimage_of, elf, gzip};

const M: u64 = 1 << 20;
const RAM: u64 = 8 * M;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap()
}

fn check_for(image: Vec<u8>, protocol: Protocol) -> Result<Image<Cursor<Vec<u8>>>, ImageError> {
    Image::check(Cursor::new(image), RAM, protocol)
}

fn check(image: Vec<u8>) -> Result<Image<Cursor<Vec<u8>>>, ImageError> {
    check_for(image, Protocol::Auto)
}

#[track_caller]
fn refusal(image: Vec<u8>) -> String {
    let error = check(image).err().unwrap();
    error.to_string()
}

#[test]
fn an_elf_file_is_loaded_where_its_segments_say() {
    let memory = memory();
    let image = elf(M, &[Segment::load(M, b"code", 0x2000), Segment::load(2 * M, b"data", 4)]);

    let loaded = check(image).unwrap().load(&memory, Protocol::Auto).unwrap();

    assert_eq!((loaded.start, loaded.end), (Start::Long(M), 2 * M + 4));
    assert_eq!(&memory.read_obj::<[u8; 4]>(GuestAddress(M)).unwrap(), b"code");
    assert_eq!(&memory.read_obj::<[u8; 4]>(GuestAddress(2 * M)).unwrap(), b"data");
}

/// A note that says where the entry for PVH is.
fn pvh_note(entry: u32) -> Vec<u8> {
    let [name_bytes, bytes, kind] = [4_u32, 4, 18].map(u32::to_le_bytes);
    [&name_bytes[..], &bytes, &kind, b"Xen\0", &entry.to_le_bytes()].concat()
}

#[test]
fn pvh_enters_where_the_notes_say() {
    let image = elf(M, &[Segment::load(M, &[0x90; 16], 16), Segment::note(&pvh_note(0x10_0008))]);

    let start =
        |protocol| check_for(image.clone(), protocol).unwrap().load(&memory(), protocol).unwrap().start;

    assert_eq!(start(Protocol::Pvh), Start::Pvh(0x10_0008));
    assert_eq!(start(Protocol::Auto), Start::Long(M));
}

#[test]
fn a_kernel_without_an_entry_for_pvh_says_so() {
    let image = check(elf(M, &[Segment::load(M, b"code", 4)])).unwrap();

    let error = image.load(&memory(), Protocol::Pvh).unwrap_err();

    assert!(error.to_string().contains("no entry for PVH"), "{error}");
}

#[test]
fn a_bzimage_is_loaded_at_one_mebibyte_and_entered_in_64_bits() {
    let memory = memory();
    let image = bzimage(|_| ());

    let loaded = check(image).unwrap().load(&memory, Protocol::Auto).unwrap();

    assert_eq!(loaded.start, Start::Long(M + 0x200));
    assert_eq!((loaded.end, loaded.initrd_end, loaded.command_line_bytes), (5 * M, 0x8000_0000, 2047));
    assert_eq!(memory.read_obj::<u8>(GuestAddress(M + 0x200)).unwrap(), 0xcc);
}

/// A kernel at 2 MiB with an entry for PVH, packed in a bzImage.
fn packed() -> Vec<u8> {
    let image = elf(2 * M, &[Segment::load(2 * M, &[0x90; 16], 16), Segment::note(&pvh_note(0x20_0008))]);
    bzimage_of(&gzip(&image), |_| ())
}

#[test]
fn the_kernel_in_a_bzimage_is_loaded_unless_its_own_code_is_asked_for() {
    let memory = memory();
    let load =
        |protocol| check_for(packed(), protocol).unwrap().load(&memory, protocol).map(|loaded| loaded.start);

    assert_eq!(load(Protocol::Auto).unwrap(), Start::Long(2 * M));
    assert_eq!(memory.read_obj::<u8>(GuestAddress(2 * M)).unwrap(), 0x90);
    assert_eq!(load(Protocol::Pvh).unwrap(), Start::Pvh(0x20_0008));
    assert_eq!(memory.read_obj::<u8>(GuestAddress(M + 0x200)).unwrap(), 0, "nothing of its own code");
    assert_eq!(load(Protocol::Linux64).unwrap(), Start::Long(M + 0x200));
    assert_eq!(memory.read_obj::<u8>(GuestAddress(M + 0x200)).unwrap(), 0xcc);
}

#[test]
fn a_bzimage_whose_kernel_cannot_be_taken_out_has_no_entry_for_pvh() {
    let error = check_for(bzimage_of(b"BZh91AY&SY and so on", |_| ()), Protocol::Pvh).unwrap_err();

    assert!(error.to_string().contains("cannot be taken out; leave --protocol out"), "{error}");
}

#[test]
fn a_bzimage_whose_kernel_is_none_is_refused() {
    assert!(refusal(bzimage_of(&gzip(b"what is this?"), |_| ())).contains("is no vmlinux"));
    assert!(
        refusal(bzimage_of(&gzip(b"what is this?"), |header| header.payload_offset += 100))
            .contains("lies outside of it")
    );
    let error = check(bzimage_of(&gzip(&elf(M, &[])), |_| ())).unwrap_err();
    assert!(error.to_string().contains("packed in it cannot be used"), "{error}");
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("nothing to load"));
}

#[test]
fn what_is_no_kernel_is_told_by_what_it_is() {
    assert!(refusal(Vec::new()).contains("it is empty"));
    assert!(refusal(b"#!/bin/sh\n".to_vec()).contains("it is a script"));
    assert!(refusal(b"070701000".to_vec()).contains("it is a cpio archive"));
    assert!(refusal(vec![0x1f, 0x8b, 8, 0]).contains("compressed by gzip"));
    assert!(refusal(vec![7; 4096]).contains("it is not a kernel; give an x86_64 kernel"));
}

#[test]
fn an_elf_file_for_somebody_else_is_refused() {
    let image = elf(M, &[Segment::load(M, b"code", 4)]);
    let changed = |at: usize, byte: u8| {
        let mut image = image.clone();
        image[at] = byte;
        refusal(image)
    };

    assert!(changed(4, 1).contains("not of 64 bits"));
    assert!(changed(18, 183).contains("another processor"));
    assert!(changed(16, 1).contains("nobody can run"));
}

#[test]
fn a_kernel_that_was_cut_is_told_how_long_it_should_be() {
    let whole = elf(M, &[Segment::load(M, &[0x90; 100], 100)]);
    let len = whole.len();

    for cut in [10, 63, 70, len - 1] {
        assert!(refusal(whole[..cut].to_vec()).contains("truncated"), "cut at {cut}");
    }
    let image = bzimage(|_| ());
    let cut = image[..image.len() - 1].to_vec();
    assert!(refusal(cut).contains("truncated"));
}

#[test]
fn a_kernel_larger_than_ram_is_told_how_much_it_needs() {
    let error = refusal(elf(M, &[Segment::load(M, b"code", RAM)]));
    assert!(error.contains("needs RAM up to 0x900000 and there is RAM up to 0x800000"), "{error}");

    let error = refusal(bzimage(|header| header.init_size = 64 << 20));
    assert!(error.contains("give the guest more with --mem"), "{error}");
}

#[test]
fn segments_that_lie_where_no_kernel_does_are_refused() {
    for address in [0, M - 1, 3 << 30, u64::MAX - 3] {
        let error = refusal(elf(address, &[Segment::load(address, b"code", 4)]));
        assert!(error.contains("between 1 MiB and the end of RAM"), "{address:#x}: {error}");
    }
}

#[test]
fn headers_that_contradict_themselves_are_refused() {
    assert!(refusal(elf(M, &[Segment::load(M, b"code", 3)])).contains("smaller in memory"));
    assert!(refusal(elf(2 * M, &[Segment::load(M, b"code", 4)])).contains("entry is in none"));
    assert!(refusal(elf(M, &[])).contains("nothing to load"));
    assert!(refusal(bzimage(|header| header.xloadflags = 0)).contains("not one of x86_64"));
    assert!(refusal(bzimage(|header| header.version = 0x0200)).contains("not one of x86_64"));
}

/// Memory that fails the test when it is written outside what a kernel may have.
fn only_high_memory_was_written(memory: &GuestMemoryMmap) -> bool {
    let mut low = vec![0; 1 << 20];
    memory.read_slice(&mut low, GuestAddress(0)).unwrap();
    low.iter().all(|byte| *byte == 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is in the headers, it is loaded above 1 MiB or refused.
    #[test]
    fn hostile_headers_never_panic_nor_reach_beyond_ram(
        kind in 0..3,
        changes in vec((0_usize..0x300, any::<u8>()), 0..12),
        words in vec((0_usize..0x40, prop_oneof![Just(u64::MAX), Just(1 << 63), Just(RAM), any::<u64>()]), 0..3),
        cut in 0_usize..8192,
        protocol in prop_oneof![Just(Protocol::Auto), Just(Protocol::Linux64), Just(Protocol::Pvh)],
    ) {
        let mut image = match kind {
            0 => elf(M, &[Segment::load(M, &[0x90; 100], 200), Segment::note(&[4; 64])]),
            1 => bzimage(|_| ()),
            _ => packed(),
        };
        let len = image.len();
        for (at, byte) in changes {
            image[at % len] = byte;
        }
        for (word, value) in words {
            let at = word * 8 % (len - 8);
            image[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        image.truncate(len.saturating_sub(cut % 16 * (cut / 16)));
        let memory = memory();

        let loaded = check_for(image, protocol).and_then(|image| image.load(&memory, protocol));

        prop_assert!(only_high_memory_was_written(&memory));
        if let Ok(loaded) = loaded {
            prop_assert!(loaded.end <= RAM);
        }
    }

    /// Nor does a file of random bytes.
    #[test]
    fn random_files_are_refused(bytes in vec(any::<u8>(), 0..2048)) {
        prop_assert!(check(bytes).is_err());
    }
}
