//! A vmlinux: an ELF file whose segments say where they belong.

use std::io::{Read, Seek};

use object::{
    LittleEndian, ReadCache,
    elf::{EM_X86_64, ET_DYN, ET_EXEC, FileHeader64, PT_LOAD, PT_NOTE},
    read::elf::{FileHeader, ProgramHeader},
};

use super::ImageError;
use crate::{boot::layout::HIGH_MEMORY, memory::HOLE};

/// What Linux takes on x86, without the zero at the end.
pub(super) const COMMAND_LINE_BYTES: u32 = 2047;
/// A vmlinux has five.
const MOST_SEGMENTS: usize = 64;
/// Those of a vmlinux take some hundred bytes.
const MOST_NOTE_BYTES: u64 = 1 << 20;

/// Where it will lie, and where it is entered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) entry: u64,
    /// The end of its last segment, guest-physical.
    pub(super) end: u64,
    /// Where its segments will be: start and end.
    segments: Vec<(u64, u64)>,
}

impl Plan {
    /// Reads the headers of `file`, which has `len` bytes, for RAM that ends at `ram_end`.
    pub(super) fn of<F: Read + Seek>(file: &mut F, len: u64, ram_end: u64) -> Result<Self, ImageError> {
        const HEADER_BYTES: u64 = size_of::<FileHeader64<LittleEndian>>() as u64;
        let endian = LittleEndian;
        if len < HEADER_BYTES {
            return Err(ImageError::Truncated { needed: HEADER_BYTES, len });
        }
        let cache = ReadCache::new(file);
        let header = FileHeader64::<LittleEndian>::parse(&cache)
            .map_err(|_| ImageError::NotAKernel { what: "it is an ELF file, but not of 64 bits" })?;
        let machine = header.e_machine.get(endian);
        if machine != EM_X86_64 {
            return Err(ImageError::NotAKernel { what: "it is an ELF file for another processor" });
        }
        if !matches!(header.e_type.get(endian), ET_EXEC | ET_DYN) {
            return Err(ImageError::NotAKernel { what: "it is an ELF file that nobody can run" });
        }
        let count = header.e_phnum.get(endian);
        let headers_end = header
            .e_phoff
            .get(endian)
            .saturating_add(u64::from(count) * u64::from(header.e_phentsize.get(endian)));
        if headers_end > len {
            return Err(ImageError::Truncated { needed: headers_end, len });
        }
        if usize::from(count) > MOST_SEGMENTS {
            return Err(ImageError::Malformed { what: "it has hundreds of segments" });
        }
        let segments = header
            .program_headers(endian, &cache)
            .map_err(|_| ImageError::Malformed { what: "its program headers cannot be read" })?;

        let mut plan = Self { entry: header.e_entry.get(endian), end: 0, segments: Vec::new() };
        for segment in segments {
            let kind = segment.p_type.get(endian);
            let (offset, bytes) = (segment.p_offset.get(endian), segment.p_filesz.get(endian));
            if kind != PT_LOAD && kind != PT_NOTE {
                continue;
            }
            let needed = offset.saturating_add(bytes);
            if needed > len {
                return Err(ImageError::Truncated { needed, len });
            }
            if kind == PT_NOTE {
                if bytes > MOST_NOTE_BYTES {
                    return Err(ImageError::Malformed { what: "its notes are larger than a kernel's" });
                }
                continue;
            }
            plan.add(segment.p_paddr(endian), bytes, segment.p_memsz.get(endian), ram_end)?;
        }
        if plan.segments.is_empty() {
            return Err(ImageError::Malformed { what: "it has nothing to load" });
        }
        plan.check_entry(plan.entry)?;
        Ok(plan)
    }

    fn add(&mut self, start: u64, file_bytes: u64, bytes: u64, ram_end: u64) -> Result<(), ImageError> {
        if bytes < file_bytes {
            return Err(ImageError::Malformed { what: "a segment is smaller in memory than in the file" });
        }
        if bytes == 0 {
            return Ok(());
        }
        let end = start.checked_add(bytes).ok_or(ImageError::OutsideRam { address: start })?;
        if !(HIGH_MEMORY..HOLE).contains(&start) {
            return Err(ImageError::OutsideRam { address: start });
        }
        if end > ram_end {
            return Err(ImageError::LargerThanRam { needed: end, ram: ram_end });
        }
        self.end = self.end.max(end);
        self.segments.push((start, end));
        Ok(())
    }

    fn check_entry(&self, entry: u64) -> Result<(), ImageError> {
        let inside = self.segments.iter().any(|(start, end)| (*start..*end).contains(&entry));
        inside.then_some(()).ok_or(ImageError::Malformed { what: "its entry is in none of its segments" })
    }

    /// The entry for PVH, if it can be one.
    pub(super) fn check_pvh(&self, entry: u64) -> Result<u32, ImageError> {
        self.check_entry(entry)?;
        u32::try_from(entry).map_err(|_| ImageError::Malformed { what: "its entry for PVH is above 4 GiB" })
    }
}
