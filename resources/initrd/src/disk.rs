//! Tests of the block device, always past the guest's page cache. Checksums are SHA-256, so that any host can make the
//! same.
#![expect(unsafe_code, reason = "rustix has no call for a discard")]

use core::time::Duration;

use rustix::fd::OwnedFd;
use rustix::fs::{self, OFlags, SeekFrom};
use rustix::io::{self, Errno};
use rustix::ioctl::{self, Setter};
use sha2::{Digest, Sha256};

use crate::console::say;
use crate::machine;
use crate::memory;
use crate::outcome::Failure;
use crate::region::{Pages, Region};
use crate::script::Arguments;

/// MiB of one read or write.
const CHUNK_MIB: usize = 1;
/// What a disk is written by at least.
const SECTOR: usize = 512;
const BLKDISCARD: ioctl::Opcode = ioctl::opcode::none(0x12, 119);

/// A disk and the memory to read it into.
struct Disk {
    file: OwnedFd,
    bytes: u64,
    buffer: Region,
}

/// `disk[:NAME]`: checksum of what is there, then as `disk-write`.
pub(crate) fn both(arguments: &mut Arguments) -> Result<(), Failure> {
    let mut disk = Disk::open(arguments, OFlags::RDWR)?;
    disk.report("disk-read")?;
    disk.write_and_verify()
}

/// `disk-read[:NAME]`: checksum of the whole disk.
pub(crate) fn read(arguments: &mut Arguments) -> Result<(), Failure> {
    Disk::open(arguments, OFlags::RDONLY)?.report("disk-read")
}

/// `disk-changes[:NAME]`: waits until the host has put another disk in its place, of another size, and says the checksum
/// of that.
pub(crate) fn changes(arguments: &mut Arguments) -> Result<(), Failure> {
    let mut disk = Disk::open(arguments, OFlags::RDONLY)?;
    let before = disk.bytes;
    while disk.bytes == before {
        memory::pause(Duration::from_millis(50));
        disk.bytes = size(&disk.file)?;
    }
    disk.report("disk-changes")
}

/// `disk-write[:NAME]`: fills the disk with a pattern, reads it back and compares.
pub(crate) fn write(arguments: &mut Arguments) -> Result<(), Failure> {
    Disk::open(arguments, OFlags::RDWR)?.write_and_verify()
}

/// `disk-throughput[:NAME]`: reads the whole disk in order, twice, and says how long that took.
pub(crate) fn throughput(arguments: &mut Arguments) -> Result<(), Failure> {
    let mut disk = Disk::open(arguments, OFlags::RDONLY)?;
    for pass in 1..=2 {
        let started = machine::now();
        disk.for_each_chunk(|file, chunk, offset| io::pread(file, chunk, offset))?;
        let took = machine::now().saturating_sub(started);
        say!("disk-throughput pass={pass} bytes={} us={}", disk.bytes, took.as_micros());
    }
    Ok(())
}

/// `disk-discard[:NAME]`: discards the whole disk and says the checksum of what is read then.
pub(crate) fn discard(arguments: &mut Arguments) -> Result<(), Failure> {
    let mut disk = Disk::open(arguments, OFlags::RDWR)?;
    // SAFETY: BLKDISCARD takes a pointer to two words, the first byte and the number of bytes.
    let request = unsafe { Setter::<BLKDISCARD, [u64; 2]>::new([0, disk.bytes]) };
    // SAFETY: it reads these words and no other memory of this process.
    unsafe { ioctl::ioctl(&disk.file, request) }.map_err(Failure::refused("discard"))?;
    fs::fsync(&disk.file).map_err(Failure::refused("flush"))?;
    disk.report("disk-discard")
}

/// `disk-readonly[:NAME]`: passes if Linux does not let the disk be written.
pub(crate) fn read_only(arguments: &mut Arguments) -> Result<(), Failure> {
    let mut disk = match Disk::open(arguments, OFlags::RDWR) {
        Err(Failure::Refused(_, Errno::ACCESS | Errno::PERM | Errno::ROFS)) => return Ok(()),
        other => other?,
    };
    match io::pwrite(&disk.file, &disk.buffer.bytes()[..SECTOR], 0) {
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Ok(()),
        Err(other) => Err(Failure::Refused("write", other)),
        Ok(_) => Err(Failure::Wrong("the disk can be written")),
    }
}

/// How large the disk is now, in bytes.
fn size(file: &OwnedFd) -> Result<u64, Failure> {
    fs::seek(file, SeekFrom::End(0)).map_err(Failure::refused("size of the disk"))
}

impl Disk {
    /// The disk that the next argument names, or the first one.
    fn open(arguments: &mut Arguments, how: OFlags) -> Result<Self, Failure> {
        let directory = machine::open(c"/dev", OFlags::DIRECTORY).map_err(Failure::refused("/dev"))?;
        let name = arguments.text().unwrap_or("vda");
        let file = fs::openat(&directory, name, how | OFlags::DIRECT | OFlags::CLOEXEC, fs::Mode::empty())
            .map_err(Failure::refused("open the disk"))?;
        let bytes = size(&file)?;
        Ok(Self { file, bytes, buffer: Region::map(CHUNK_MIB, Pages::Huge)? })
    }

    /// Calls `transfer` with every chunk in order until the disk ends; what it returns is done.
    fn for_each_chunk(
        &mut self,
        mut transfer: impl FnMut(&OwnedFd, &mut [u8], u64) -> io::Result<usize>,
    ) -> Result<(), Failure> {
        let mut offset = 0;
        while offset < self.bytes {
            let rest = usize::try_from(self.bytes - offset).unwrap_or(usize::MAX);
            let buffer = self.buffer.bytes();
            let len = buffer.len().min(rest);
            match transfer(&self.file, &mut buffer[..len], offset).map_err(Failure::refused("disk"))? {
                0 => return Err(Failure::Wrong("the disk ends early")),
                done => offset += done as u64,
            }
        }
        Ok(())
    }

    fn checksum(&mut self) -> Result<Sum, Failure> {
        let mut sum = Sha256::new();
        self.for_each_chunk(|file, chunk, offset| {
            let done = io::pread(file, &mut *chunk, offset)?;
            sum.update(&chunk[..done]);
            Ok(done)
        })?;
        Ok(Sum(sum.finalize().into()))
    }

    fn report(&mut self, what: &str) -> Result<(), Failure> {
        let sum = self.checksum()?;
        say!("{what} bytes={} sha256={sum}", self.bytes);
        Ok(())
    }

    fn write_and_verify(&mut self) -> Result<(), Failure> {
        let mut sum = Sha256::new();
        self.for_each_chunk(|file, chunk, offset| {
            for (at, word) in (offset..).step_by(8).zip(chunk.chunks_mut(8)) {
                let value = (at | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
                word.copy_from_slice(&value[..word.len()]);
            }
            let done = io::pwrite(file, chunk, offset)?;
            sum.update(&chunk[..done]);
            Ok(done)
        })?;
        fs::fsync(&self.file).map_err(Failure::refused("flush"))?;
        let written = Sum(sum.finalize().into());
        say!("disk-write bytes={} sha256={written}", self.bytes);
        if self.checksum()? == written { Ok(()) } else { Err(Failure::Wrong("the disk has changed")) }
    }
}

#[derive(PartialEq, Eq)]
struct Sum([u8; 32]);

impl core::fmt::Display for Sum {
    fn fmt(&self, f: &mut core::fmt::Formatter) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
