//! Tests of the block device and of the random source. Checksums are SHA-256, so that any host can make the same.

use rustix::fd::OwnedFd;
use rustix::fs::{self, FallocateFlags, OFlags, SeekFrom};
use rustix::io::{self, Errno};
use sha2::{Digest, Sha256};

use crate::console::say;
use crate::machine;
use crate::outcome::Failure;
use crate::region::{Pages, Region};
use crate::script::Arguments;

/// Bytes of one read or write.
const CHUNK_MIB: usize = 1;

struct Disk {
    file: OwnedFd,
    bytes: u64,
}

/// The disk that the next argument names, or the first one.
fn open(arguments: &mut Arguments, how: OFlags) -> Result<Disk, Failure> {
    let directory = machine::open(c"/dev", OFlags::DIRECTORY).map_err(Failure::refused("/dev"))?;
    let name = arguments.text().unwrap_or("vda");
    let file = fs::openat(&directory, name, how | OFlags::CLOEXEC, fs::Mode::empty())
        .map_err(Failure::refused("open the disk"))?;
    let bytes = fs::seek(&file, SeekFrom::End(0)).map_err(Failure::refused("size of the disk"))?;
    Ok(Disk { file, bytes })
}

/// `disk[:NAME]`: checksum of what is there, then as `disk-write`.
pub(crate) fn both(arguments: &mut Arguments) -> Result<(), Failure> {
    let disk = open(arguments, OFlags::RDWR)?;
    report("disk-read", &disk, &disk.checksum()?);
    disk.write_and_verify()
}

/// `disk-read[:NAME]`: checksum of the whole disk.
pub(crate) fn read(arguments: &mut Arguments) -> Result<(), Failure> {
    let disk = open(arguments, OFlags::RDONLY)?;
    report("disk-read", &disk, &disk.checksum()?);
    Ok(())
}

/// `disk-write[:NAME]`: fills the disk with a pattern, reads it back from the device and compares.
pub(crate) fn write(arguments: &mut Arguments) -> Result<(), Failure> {
    open(arguments, OFlags::RDWR)?.write_and_verify()
}

/// `disk-throughput[:NAME]`: reads the whole disk in order, past the guest's page cache.
pub(crate) fn throughput(arguments: &mut Arguments) -> Result<(), Failure> {
    let disk = open(arguments, OFlags::RDONLY | OFlags::DIRECT)?;
    let mut buffer = Region::map(CHUNK_MIB, Pages::Huge)?;
    buffer.bytes().fill(1);
    for pass in 1..=2 {
        let started = machine::now();
        disk.for_each_chunk(buffer.bytes(), |file, chunk, offset| io::pread(file, chunk, offset))?;
        let took = machine::now().saturating_sub(started);
        say!("disk-throughput pass={pass} bytes={} us={}", disk.bytes, took.as_micros());
    }
    Ok(())
}

/// `disk-discard[:NAME]`: discards the whole disk and says the checksum of what is read then.
pub(crate) fn discard(arguments: &mut Arguments) -> Result<(), Failure> {
    let disk = open(arguments, OFlags::RDWR)?;
    let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE | FallocateFlags::NO_HIDE_STALE;
    fs::fallocate(&disk.file, how, 0, disk.bytes).map_err(Failure::refused("discard"))?;
    fs::fsync(&disk.file).map_err(Failure::refused("flush"))?;
    report("disk-discard", &disk, &disk.checksum()?);
    Ok(())
}

/// `disk-readonly[:NAME]`: passes if Linux does not let the disk be written.
pub(crate) fn read_only(arguments: &mut Arguments) -> Result<(), Failure> {
    match open(arguments, OFlags::RDWR) {
        Err(Failure::Refused(_, Errno::ACCESS | Errno::PERM | Errno::ROFS)) => Ok(()),
        Err(other) => Err(other),
        Ok(_) => Err(Failure::Wrong("the disk can be written")),
    }
}

/// `rng`: two reads of the hardware's random source, which must differ.
pub(crate) fn rng() -> Result<(), Failure> {
    let mut name = [0; 64];
    let name = machine::read_text(c"/sys/class/misc/hw_random/rng_current", &mut name).unwrap_or("none");
    let source = machine::open(c"/dev/hwrng", OFlags::RDONLY).map_err(Failure::refused("/dev/hwrng"))?;
    let mut samples = [[0_u8; 32]; 2];
    for sample in &mut samples {
        let mut rest = &mut sample[..];
        while !rest.is_empty() {
            let done = io::read(&source, &mut *rest).map_err(Failure::refused("read /dev/hwrng"))?;
            rest = &mut rest[done..];
        }
    }
    say!(
        "rng source={name} sample={:016x}",
        u64::from_ne_bytes(samples[0][..8].try_into().unwrap_or_default())
    );
    if samples[0] == samples[1] { Err(Failure::Wrong("the same numbers twice")) } else { Ok(()) }
}

impl Disk {
    /// Calls `transfer` with every chunk in order until the disk ends.
    fn for_each_chunk(
        &self,
        buffer: &mut [u8],
        mut transfer: impl FnMut(&OwnedFd, &mut [u8], u64) -> io::Result<usize>,
    ) -> Result<(), Failure> {
        let mut offset = 0;
        while offset < self.bytes {
            let rest = usize::try_from(self.bytes - offset).unwrap_or(usize::MAX);
            let chunk = buffer.len().min(rest);
            match transfer(&self.file, &mut buffer[..chunk], offset).map_err(Failure::refused("disk"))? {
                0 => return Err(Failure::Wrong("the disk ends early")),
                done => offset += done as u64,
            }
        }
        Ok(())
    }

    fn checksum(&self) -> Result<Sum, Failure> {
        let mut buffer = Region::map(CHUNK_MIB, Pages::Huge)?;
        let mut sum = Sha256::new();
        self.for_each_chunk(buffer.bytes(), |file, chunk, offset| {
            let done = io::pread(file, &mut *chunk, offset)?;
            sum.update(&chunk[..done]);
            Ok(done)
        })?;
        Ok(Sum(sum.finalize().into()))
    }

    fn write_and_verify(&self) -> Result<(), Failure> {
        let mut buffer = Region::map(CHUNK_MIB, Pages::Huge)?;
        let mut sum = Sha256::new();
        self.for_each_chunk(buffer.bytes(), |file, chunk, offset| {
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
        report("disk-write", self, &written);
        machine::set(c"/proc/sys/vm/drop_caches", "1").map_err(Failure::refused("drop_caches"))?;
        if self.checksum()? == written { Ok(()) } else { Err(Failure::Wrong("the disk has changed")) }
    }
}

fn report(what: &str, disk: &Disk, sum: &Sum) {
    say!("{what} bytes={} sha256={sum}", disk.bytes);
}

#[derive(PartialEq, Eq)]
struct Sum([u8; 32]);

impl core::fmt::Display for Sum {
    fn fmt(&self, f: &mut core::fmt::Formatter) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
