//! A bzImage: a header, code for real mode that nobody runs here, and a kernel that unpacks itself.

use std::io::{Read, Seek, SeekFrom};

use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::{ImageError, payload::Payload};
use crate::boot::layout::HIGH_MEMORY;

/// Where the header is.
const HEADER: u64 = 0x1f1;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
const SECTOR: u64 = 512;
/// The first version of the boot protocol whose header says whether there is a 64-bit entry.
const WITH_LONG_ENTRY: u16 = 0x020c;
/// In loadflags: it belongs above 1 MiB.
const LOADED_HIGH: u8 = 1;
/// In xloadflags: it has a 64-bit entry.
const KERNEL_64: u16 = 1;
/// Where that is, in bytes from where the kernel is loaded.
const LONG_ENTRY: u64 = 0x200;

/// Where it will lie, and where it is entered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) entry: u64,
    /// The end of what it needs until it has unpacked itself, guest-physical.
    pub(super) end: u64,
    pub(super) initrd_end: u64,
    pub(super) command_line_bytes: u32,
    /// The kernel that is packed in it, unless the header tells of none.
    pub(super) payload: Option<Payload>,
}

impl Plan {
    /// Reads the header of `file`, which has `len` bytes, for RAM that ends at `ram_end`. `None` if it has none.
    pub(super) fn of<F: Read + Seek>(
        file: &mut F,
        len: u64,
        ram_end: u64,
    ) -> Result<Option<Self>, ImageError> {
        const HEADER_BYTES: u64 = size_of::<setup_header>() as u64;
        if len < HEADER + HEADER_BYTES {
            return Ok(None);
        }
        let mut header = setup_header::default();
        file.seek(SeekFrom::Start(HEADER)).map_err(ImageError::Read)?;
        file.read_exact(header.as_mut_slice()).map_err(ImageError::Read)?;
        if header.header != HEADER_MAGIC {
            return Ok(None);
        }
        if header.version < WITH_LONG_ENTRY
            || header.loadflags & LOADED_HIGH == 0
            || header.xloadflags & KERNEL_64 == 0
        {
            return Err(ImageError::NotAKernel {
                what: "it is a Linux kernel, but not one of x86_64 from 2013 or later",
            });
        }
        // A header that says 0 means 4.
        let sectors = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
        let setup = (sectors + 1) * SECTOR;
        let needed = setup + u64::from(header.syssize) * 16;
        if needed > len {
            return Err(ImageError::Truncated { needed, len });
        }
        let body = len - setup;
        if body <= LONG_ENTRY {
            return Err(ImageError::Malformed { what: "there is no code behind its header" });
        }
        // It unpacks itself where it prefers to be, or where it is if that is higher, and needs so much from there.
        let unpacked = header.pref_address.max(HIGH_MEMORY).checked_add(u64::from(header.init_size));
        let end =
            unpacked.ok_or(ImageError::OutsideRam { address: header.pref_address })?.max(HIGH_MEMORY + body);
        if end > ram_end {
            return Err(ImageError::LargerThanRam { needed: end, ram: ram_end });
        }
        Ok(Some(Self {
            entry: HIGH_MEMORY + LONG_ENTRY,
            end,
            initrd_end: u64::from(header.initrd_addr_max) + 1,
            command_line_bytes: header.cmdline_size,
            payload: payload(&header, body)?
                .map(|payload| Payload { offset: setup + payload.offset, ..payload }),
        }))
    }
}

/// What `header` says of the kernel that is packed into the `body` bytes behind the code for real mode.
fn payload(header: &setup_header, body: u64) -> Result<Option<Payload>, ImageError> {
    let (offset, len) = (u64::from(header.payload_offset), u64::from(header.payload_length));
    if len == 0 {
        return Ok(None);
    }
    if offset + len > body {
        return Err(ImageError::Malformed { what: "the kernel packed in it lies outside of it" });
    }
    // Unpacked it has to fit where it unpacks itself.
    Ok(Some(Payload { offset, len, most: header.init_size.into() }))
}
