//! I/O that passes the host's page cache by.
//!
//! The kernel hands the pages of the buffers to the disk's hardware, and those may be written after a fault would have
//! told anybody: so they are pinned for as long as the call lasts, and a discard leaves them alone. What the hardware
//! cannot reach, because the driver did not align it, goes by way of a buffer that it can.
#![expect(unsafe_code, reason = "`statx` has no safe wrapper")]

use std::{
    fs::File,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::FileExt,
    },
};

use guest_mem::RamPin;
use mmu_notifier::{AddressRange, PAGE_SIZE};
use vm_memory::GuestAddress;

use super::super::buffers::{ReadBuffers, WriteBuffers};
use crate::memory::Memory;

/// The length of the buffer for what is not aligned, in bytes.
const BOUNCE: usize = 256 << 10;
/// What to align to where the kernel does not say.
const UNKNOWN: u32 = 4096;

/// How direct I/O is done on one file.
#[derive(Debug)]
pub(super) struct Direct {
    /// What the address and the length of each buffer must be a multiple of, in bytes.
    memory: usize,
    /// What offsets and lengths in the file must be a multiple of, in bytes.
    block: u64,
    /// For what is not aligned; made when it is needed.
    bounce: Bounce,
    /// The pins of one request; its room is used again.
    pins: Vec<RamPin>,
}

/// A buffer that the hardware reaches.
#[derive(Debug, Default)]
struct Bounce(Vec<u8>);

impl Direct {
    /// What `file` asks for.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let mut status = MaybeUninit::<libc::statx>::zeroed();
        let flags = libc::AT_EMPTY_PATH;
        // SAFETY: the path is an empty string that ends in a zero, and the kernel writes to `status`, which is large enough.
        let result = unsafe {
            libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_DIOALIGN, status.as_mut_ptr())
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it consists of integers, which zeros are values of, and the kernel has filled it in.
        let status = unsafe { status.assume_init() };
        let known = status.stx_mask & libc::STATX_DIOALIGN != 0 && status.stx_dio_offset_align != 0;
        let (memory, block) =
            if known { (status.stx_dio_mem_align, status.stx_dio_offset_align) } else { (UNKNOWN, UNKNOWN) };
        Ok(Self {
            memory: memory.max(1).next_power_of_two() as usize,
            block: u64::from(block).max(super::SECTOR),
            bounce: Bounce::default(),
            pins: Vec::new(),
        })
    }

    /// What offsets and lengths in the file must be a multiple of, in bytes.
    pub(super) const fn block(&self) -> u64 {
        self.block
    }

    pub(super) fn read(
        &mut self,
        file: &File,
        buffers: &mut WriteBuffers,
        offset: u64,
        memory: &Memory,
    ) -> io::Result<()> {
        if buffers.is_aligned(self.memory) && self.pin(buffers.guest_ranges(), true, memory) {
            let read = buffers.read_from(file.as_fd(), offset);
            self.pins.clear();
            return read;
        }
        let mut offset = offset;
        while !buffers.is_empty() {
            let piece = self.bounce.get(self.memory, buffers.len());
            file.read_exact_at(piece, offset)?;
            buffers.write_all(piece).map_err(io::Error::other)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        file: &File,
        buffers: &mut ReadBuffers,
        offset: u64,
        memory: &Memory,
    ) -> io::Result<()> {
        if buffers.is_aligned(self.memory) && self.pin(buffers.guest_ranges(), false, memory) {
            let written = buffers.write_to(file.as_fd(), offset);
            self.pins.clear();
            return written;
        }
        let mut offset = offset;
        while !buffers.is_empty() {
            let piece = self.bounce.get(self.memory, buffers.len());
            buffers.read_exact(piece).map_err(io::Error::other)?;
            file.write_all_at(piece, offset)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Writes zeros, a piece at a time.
    pub(super) fn fill(&self, file: &File, mut offset: u64, mut len: u64) -> io::Result<()> {
        let mut zeroes = Bounce::default();
        while len > 0 {
            let piece = zeroes.get(self.memory, usize::try_from(len).unwrap_or(usize::MAX));
            file.write_all_at(piece, offset)?;
            offset += piece.len() as u64;
            len -= piece.len() as u64;
        }
        Ok(())
    }

    /// Pins every range, and says whether it could: where not, nothing is pinned.
    fn pin(
        &mut self,
        ranges: impl Iterator<Item = (GuestAddress, usize)>,
        write: bool,
        memory: &Memory,
    ) -> bool {
        self.pins.clear();
        for (address, len) in ranges {
            let start = address.0 - address.0 % PAGE_SIZE;
            let end = (address.0 + len as u64).next_multiple_of(PAGE_SIZE);
            let pinned = AddressRange::new(start, end - start).ok().and_then(|range| {
                let pinned = memory.pin(range, write);
                pinned.inspect_err(|error| log::debug!("{error}: copied instead")).ok()
            });
            let Some(pin) = pinned else {
                self.pins.clear();
                return false;
            };
            self.pins.push(pin);
        }
        true
    }
}

impl Bounce {
    /// `len` bytes, or as many as there is room for, that begin at a multiple of `alignment`.
    fn get(&mut self, alignment: usize, len: usize) -> &mut [u8] {
        if self.0.is_empty() {
            self.0 = vec![0; BOUNCE + alignment];
        }
        let start = self.0.as_ptr().align_offset(alignment);
        let len = len.min(BOUNCE);
        self.0.get_mut(start..start.saturating_add(len)).unwrap_or_default()
    }
}
