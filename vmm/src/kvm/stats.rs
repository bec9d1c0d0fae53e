//! KVM's binary statistics: descriptors and values of a VM or a vCPU, whatever a kernel chooses to export.
//!
//! The file that KVM_GET_STATS_FD returns describes itself: a header, a block of descriptors and a block of 64-bit
//! values. The first two never change while the file is open, so they are parsed once; a snapshot is then a single
//! `pread` of the values.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::fs::FileExt,
    },
};

use kvm_bindings::KVMIO;
use vmm_sys_util::{ioctl::ioctl, ioctl_io_nr};

ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// Bytes of a header: six 32-bit words, `flags name_size num_desc id_offset desc_offset data_offset`.
const HEADER: usize = 24;
/// Bytes of a descriptor before its name: `flags exponent size offset bucket_size`.
const DESCRIPTOR: usize = 16;
/// More descriptors, or longer names, than any kernel has: beyond that the file is not what we think it is.
const SANE: u32 = 1 << 16;

/// How a statistic behaves over time, or what its values are the buckets of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows: a counter.
    Cumulative,
    /// Goes up and down: a gauge.
    Instant,
    /// The largest value seen.
    Peak,
    /// Buckets of equal width, [`Descriptor::bucket_size`] each; the last has no upper end.
    LinearHistogram,
    /// Buckets that double: `[0, 1)`, `[1, 2)`, `[2, 4)` and so on; the last has no upper end.
    LogHistogram,
    /// A kind that this program does not know, as the kernel numbers it.
    Other(u8),
}

/// What a statistic counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Events or things.
    None,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Clock cycles.
    Cycles,
    /// Zero or one.
    Boolean,
    /// A unit that this program does not know, as the kernel numbers it.
    Other(u8),
}

/// What [`Descriptor::exponent`] is an exponent of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Powers of ten.
    Ten,
    /// Powers of two.
    Two,
    /// A base that this program does not know, as the kernel numbers it.
    Other(u8),
}

/// What KVM says of one statistic. Its value in units is `value * base ^ exponent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The kernel's name for it, such as `pf_taken`.
    pub name: String,
    /// How it behaves.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// What the exponent is of.
    pub base: Base,
    /// The power of `base` that one unit of the value stands for: -9 with base ten and seconds means nanoseconds.
    pub exponent: i16,
    /// For [`Kind::LinearHistogram`], the width of a bucket.
    pub bucket_size: u32,
    /// Where its values start in a snapshot, in 64-bit words.
    first: usize,
    /// How many values it has: one unless it is a histogram.
    len: usize,
}

/// Why statistics could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// This KVM exports none.
    #[error("this KVM has no binary statistics (KVM_CAP_BINARY_STATS_FD, Linux 5.14)")]
    Unsupported(#[source] io::Error),
    /// The file could not be opened: out of descriptors, for one.
    #[error("cannot open KVM's statistics")]
    Open(#[source] io::Error),
    /// A statistic that is needed is not there.
    #[error("this kernel's KVM does not export `{name}`; Linux 5.19 or newer does")]
    Missing {
        /// The statistic's name.
        name: &'static str,
    },
    /// The file could not be read.
    #[error("cannot read KVM's statistics")]
    Read(#[source] io::Error),
    /// The file does not describe itself as the kernel documents it.
    #[error("KVM's statistics file is malformed: {0}")]
    Malformed(&'static str),
}

/// The statistics of one VM or vCPU.
#[derive(Debug)]
pub struct Stats {
    file: File,
    id: String,
    descriptors: Vec<Descriptor>,
    data_offset: u64,
    words: usize,
}

/// All values at one moment, to be read with the [`Stats`] that took it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    bytes: Vec<u8>,
}

/// The statistics of the VM or vCPU behind `fd`.
pub(super) fn open(fd: &impl AsRawFd) -> Result<Stats, StatsError> {
    // SAFETY: `fd` is an open descriptor of a VM or vCPU; the ioctl takes no argument and writes no memory.
    let stats = unsafe { ioctl(fd, KVM_GET_STATS_FD()) };
    if stats < 0 {
        let error = io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            Some(libc::ENOTTY | libc::EINVAL | libc::ENOSYS) => StatsError::Unsupported(error),
            _ => StatsError::Open(error),
        });
    }
    // SAFETY: the ioctl has just returned this descriptor, so it is open and nobody else owns it.
    let file = unsafe { File::from_raw_fd(stats) };
    Stats::parse(file)
}

impl Stats {
    /// What the kernel calls the VM or vCPU, such as `kvm-4711/vcpu-0`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Every statistic this kernel exports here, in its own order.
    #[must_use]
    pub fn descriptors(&self) -> &[Descriptor] {
        &self.descriptors
    }

    /// Reads all values at once into `snapshot`, which allocates the first time only.
    ///
    /// # Errors
    /// [`StatsError::Read`].
    pub fn read(&self, snapshot: &mut Snapshot) -> Result<(), StatsError> {
        snapshot.bytes.resize(self.words * 8, 0);
        self.file.read_exact_at(&mut snapshot.bytes, self.data_offset).map_err(StatsError::Read)
    }

    /// The descriptor of the statistic called `name`, if this kernel exports it.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Descriptor> {
        self.descriptors.iter().find(|descriptor| descriptor.name == name)
    }

    /// The descriptor of the statistic called `name`, for those who cannot do without it.
    ///
    /// # Errors
    /// [`StatsError::Missing`].
    pub fn require(&self, name: &'static str) -> Result<Descriptor, StatsError> {
        self.find(name).cloned().ok_or(StatsError::Missing { name })
    }

    fn parse(file: File) -> Result<Self, StatsError> {
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).map_err(StatsError::Read)?;
        let word = |index: usize| u32_at(&header, index * 4).unwrap_or(0);
        let (name_size, count) = (word(1), word(2));
        let (id_offset, desc_offset, data_offset) = (word(3), word(4), word(5));
        if name_size > SANE || count > SANE {
            return Err(StatsError::Malformed("its header names absurd sizes"));
        }

        let mut id = vec![0; name_size as usize];
        file.read_exact_at(&mut id, id_offset.into()).map_err(StatsError::Read)?;

        let stride = DESCRIPTOR + name_size as usize;
        let mut block = vec![0; stride * count as usize];
        file.read_exact_at(&mut block, desc_offset.into()).map_err(StatsError::Read)?;
        let descriptors = block
            .chunks_exact(stride)
            .map(|bytes| Descriptor::parse(bytes).ok_or(StatsError::Malformed("a descriptor is cut short")))
            .collect::<Result<Vec<_>, _>>()?;

        let words = descriptors.iter().map(|d| d.first + d.len).max().unwrap_or(0);
        Ok(Self { file, id: until_nul(&id), descriptors, data_offset: data_offset.into(), words })
    }
}

impl Snapshot {
    /// The value of a statistic that is no histogram; of one that is, its first bucket.
    #[must_use]
    pub fn value(&self, descriptor: &Descriptor) -> u64 {
        self.values(descriptor).next().unwrap_or(0)
    }

    /// The values of one statistic: one, or one a bucket.
    pub fn values(&self, descriptor: &Descriptor) -> impl Iterator<Item = u64> {
        let (start, end) = (descriptor.first * 8, (descriptor.first + descriptor.len) * 8);
        let bytes = self.bytes.get(start..end).unwrap_or_default();
        bytes.as_chunks().0.iter().map(|value| u64::from_ne_bytes(*value))
    }
}

impl Descriptor {
    /// How many values it has: one, or one a bucket.
    #[must_use]
    pub const fn values(&self) -> usize {
        self.len
    }

    /// The layout and the bit fields of `flags` are those of the kernel's Documentation/virt/kvm/api.rst, 4.133.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let flags = u32_at(bytes, 0)?;
        let exponent = i16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let size = u16::from_ne_bytes(*bytes.get(6..)?.first_chunk()?);
        let field = |shift: u32| ((flags >> shift) & 0xf) as u8;
        Some(Self {
            name: until_nul(bytes.get(DESCRIPTOR..)?),
            kind: match field(0) {
                0 => Kind::Cumulative,
                1 => Kind::Instant,
                2 => Kind::Peak,
                3 => Kind::LinearHistogram,
                4 => Kind::LogHistogram,
                other => Kind::Other(other),
            },
            unit: match field(4) {
                0 => Unit::None,
                1 => Unit::Bytes,
                2 => Unit::Seconds,
                3 => Unit::Cycles,
                4 => Unit::Boolean,
                other => Unit::Other(other),
            },
            base: match field(8) {
                0 => Base::Ten,
                1 => Base::Two,
                other => Base::Other(other),
            },
            exponent,
            bucket_size: u32_at(bytes, 12)?,
            first: u32_at(bytes, 8)? as usize / 8,
            len: size.into(),
        })
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn until_nul(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests;
