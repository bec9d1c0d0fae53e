//! Hand-made kernels.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

const EHDR: usize = 64;
const PHDR: usize = 56;
const BREAKPOINTS: usize = 4096;

/// A segment of an ELF file.
pub(super) struct Segment {
    kind: u32,
    address: u64,
    bytes: Vec<u8>,
    memory_bytes: u64,
}

impl Segment {
    /// `bytes` at `address`, and zeros up to `memory_bytes`.
    pub(super) fn load(address: u64, bytes: &[u8], memory_bytes: u64) -> Self {
        Self { kind: 1, address, bytes: bytes.to_vec(), memory_bytes }
    }

    pub(super) fn note(bytes: &[u8]) -> Self {
        Self { kind: 4, address: 0, bytes: bytes.to_vec(), memory_bytes: bytes.len() as u64 }
    }
}

/// An x86_64 ELF file that is entered at `entry`.
pub(super) fn elf(entry: u64, segments: &[Segment]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    file.extend(entry.to_le_bytes());
    file.extend((EHDR as u64).to_le_bytes());
    file.extend([0; 12]);
    for half in [EHDR, PHDR, segments.len(), 64, 0, 0] {
        file.extend(u16::try_from(half).unwrap().to_le_bytes());
    }
    let mut offset = (EHDR + PHDR * segments.len()) as u64;
    for segment in segments {
        let len = segment.bytes.len() as u64;
        file.extend(segment.kind.to_le_bytes());
        file.extend(7_u32.to_le_bytes());
        for word in [offset, segment.address, segment.address, len, segment.memory_bytes, 1] {
            file.extend(word.to_le_bytes());
        }
        offset += len;
    }
    for segment in segments {
        file.extend(&segment.bytes);
    }
    file
}

/// A bzImage of two sectors of setup and 4 KiB of breakpoints, with `change` made to its header.
pub(super) fn bzimage(change: impl FnOnce(&mut setup_header)) -> Vec<u8> {
    bzimage_of(&[], change)
}

/// The same with a kernel packed in it, behind the breakpoints.
pub(super) fn bzimage_of(payload: &[u8], change: impl FnOnce(&mut setup_header)) -> Vec<u8> {
    let body = (BREAKPOINTS + payload.len()).next_multiple_of(16);
    let mut header = setup_header {
        setup_sects: 1,
        syssize: u32::try_from(body / 16).unwrap(),
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x020f,
        loadflags: 1,
        code32_start: 1 << 20,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 1 << 20,
        relocatable_kernel: 1,
        xloadflags: 1,
        cmdline_size: 2047,
        payload_offset: u32::try_from(BREAKPOINTS).unwrap(),
        payload_length: u32::try_from(payload.len()).unwrap(),
        pref_address: 1 << 20,
        init_size: 4 << 20,
        ..setup_header::default()
    };
    change(&mut header);
    let mut file = vec![0; 1024];
    let bytes = header.as_slice();
    file[0x1f1..0x1f1 + bytes.len()].copy_from_slice(bytes);
    file.extend([0xcc; BREAKPOINTS]);
    file.extend(payload);
    file.resize(1024 + body, 0);
    file
}

/// `bytes` as Linux's build packs them by gzip.
pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}
