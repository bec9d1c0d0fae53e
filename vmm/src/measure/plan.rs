//! What is to be measured, and which vCPU touches what.

use std::{fmt, num::NonZeroUsize, str::FromStr};

use guest_mem::{Backing, ByteSize, ManagedConfig};

use crate::driver::{Access, Command, GuestPage, Op, Permutation, RAM_BASE};

/// The distance of neighbouring touches unless a stride says otherwise: one word in each 4 KiB page.
const PAGE: u64 = 4096;
/// A touch is one 8-byte word.
const WORD: u64 = 8;
/// How many bytes one memory slot holds: KVM counts its pages in 31 bits (KVM_MEM_MAX_NR_PAGES).
const SLOT_LIMIT: u64 = ((1 << 31) - 1) * PAGE;

/// Everything that the user chose.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How much RAM the guest has.
    pub mem: ByteSize,
    /// The size of the pages with which it maps it.
    pub guest_page: GuestPage,
    /// How many vCPUs touch it.
    pub vcpus: u32,
    /// Whether each of them touches all of it, instead of a part of its own.
    pub overlap: bool,
    /// How a word is touched.
    pub access: Access,
    /// In which order.
    pub pattern: Pattern,
    /// How many samples are taken of each backing, after a warm-up that is not counted.
    pub samples: u32,
    /// Populate the host's pages before the guest runs, with so many threads.
    pub prefault: Option<NonZeroUsize>,
    /// Take the RAM from this NUMA node only.
    pub numa_node: Option<u32>,
    /// The host's CPUs for the vCPU threads, in turn.
    pub pin: Vec<usize>,
    /// How managed backings are run. How many faults are traced is the measurement's own choice.
    pub managed: ManagedConfig,
    /// Selects the random order.
    pub seed: u64,
    /// Keep every single touch, however many there are.
    pub every_touch: bool,
}

/// The order of the touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Ascending, one word in each 4 KiB.
    Sequential,
    /// One word in each 4 KiB, in the order of a permutation.
    Random,
    /// Ascending, one word in each so many bytes.
    Stride(u64),
}

/// Not the name of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePatternError {
    /// No pattern is called so.
    #[error("`{0}` is no pattern: use sequential, random or stride:BYTES")]
    Unknown(String),
    /// What follows `stride:` is no size.
    #[error("`{text}` is no stride")]
    Stride {
        /// What follows `stride:`.
        text: String,
        /// What is wrong with it.
        #[source]
        source: guest_mem::ParseSizeError,
    },
    /// The stride is not a multiple of a word.
    #[error(
        "a stride of {0} bytes is not a multiple of {WORD}: each touch is an aligned word of {WORD} bytes"
    )]
    Unaligned(u64),
}

/// Not the name of a kind of access.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no access: use write, read or read-write")]
pub struct ParseAccessError(String);

/// A plan that no guest can carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// KVM has no memory slot of that size.
    #[error(
        "guest RAM of {mem} bytes is more than a memory slot of KVM holds, which is {SLOT_LIMIT} bytes; ask for less"
    )]
    BeyondSlot {
        /// The RAM.
        mem: u64,
    },
    /// RAM is made of pages.
    #[error(
        "guest RAM of {mem} bytes is not a multiple of {PAGE}: it is made of pages of {PAGE} bytes; use {}",
        mem.next_multiple_of(PAGE)
    )]
    UnalignedSize {
        /// The RAM.
        mem: u64,
    },
    /// There would be nothing to touch.
    #[error(
        "a stride of {stride} bytes leaves nothing to touch in {mem} bytes; use a smaller one or more --mem"
    )]
    StrideTooLarge {
        /// The stride.
        stride: u64,
        /// The RAM.
        mem: u64,
    },
    /// Some vCPUs would have nothing to touch.
    #[error("{vcpus} vCPUs cannot share {touches} touches; use fewer vCPUs, more --mem, or --overlap")]
    TooManyVcpus {
        /// How many vCPUs there are.
        vcpus: u32,
        /// How many touches there are to share.
        touches: u64,
    },
}

/// The part of one vCPU: `count` words from `base` on, `stride` bytes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The address of index 0, guest-physical.
    pub base: u64,
    /// How many words.
    pub count: u64,
    /// How many bytes lie between an index and the next.
    pub stride: u64,
    /// Their order; ascending if there is none.
    pub permutation: Option<Permutation>,
}

impl Pattern {
    /// How many bytes lie between an index and the next.
    #[must_use]
    pub const fn stride(self) -> u64 {
        match self {
            Self::Sequential | Self::Random => PAGE,
            Self::Stride(bytes) => bytes,
        }
    }
}

impl FromStr for Pattern {
    type Err = ParsePatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "sequential" => Ok(Self::Sequential),
            "random" => Ok(Self::Random),
            _ => {
                let bytes = text
                    .strip_prefix("stride:")
                    .ok_or_else(|| ParsePatternError::Unknown(text.to_owned()))?;
                let stride: ByteSize = bytes
                    .parse()
                    .map_err(|source| ParsePatternError::Stride { text: bytes.to_owned(), source })?;
                match stride.bytes() {
                    stride if stride.is_multiple_of(WORD) => Ok(Self::Stride(stride)),
                    stride => Err(ParsePatternError::Unaligned(stride)),
                }
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sequential => f.write_str("sequential"),
            Self::Random => f.write_str("random"),
            Self::Stride(bytes) => write!(f, "stride:{bytes}"),
        }
    }
}

/// Reads `write`, `read` or `read-write`.
///
/// # Errors
/// [`ParseAccessError`] for anything else.
pub fn parse_access(text: &str) -> Result<Access, ParseAccessError> {
    [Access::Write, Access::Read, Access::ReadWrite]
        .into_iter()
        .find(|access| access_name(*access) == text)
        .ok_or_else(|| ParseAccessError(text.to_owned()))
}

/// The name under which reports know an access.
#[must_use]
pub const fn access_name(access: Access) -> &'static str {
    match access {
        Access::Write => "write",
        Access::Read => "read",
        Access::ReadWrite => "read-write",
        Access::Nothing => "nothing",
    }
}

impl Plan {
    /// What is measured of `mem` unless the user says otherwise: sequential writes by one vCPU, five samples.
    #[must_use]
    pub fn new(mem: ByteSize) -> Self {
        Self {
            mem,
            guest_page: GuestPage::M2,
            vcpus: 1,
            overlap: false,
            access: Access::Write,
            pattern: Pattern::Sequential,
            samples: 5,
            prefault: None,
            numa_node: None,
            pin: Vec::new(),
            managed: ManagedConfig::default(),
            seed: 1,
            every_touch: false,
        }
    }

    /// Whether any guest can have `mem` of RAM, whatever backs it.
    ///
    /// # Errors
    /// [`PlanError::BeyondSlot`] or [`PlanError::UnalignedSize`].
    pub const fn check_mem(mem: ByteSize) -> Result<(), PlanError> {
        match mem.bytes() {
            mem if mem > SLOT_LIMIT => Err(PlanError::BeyondSlot { mem }),
            mem if !mem.is_multiple_of(PAGE) => Err(PlanError::UnalignedSize { mem }),
            _ => Ok(()),
        }
    }

    /// Whether a guest can carry it out.
    ///
    /// # Errors
    /// [`PlanError`].
    pub const fn check(&self) -> Result<(), PlanError> {
        if let Err(error) = Self::check_mem(self.mem) {
            return Err(error);
        }
        let (stride, mem) = (self.pattern.stride(), self.mem.bytes());
        let touches = mem / stride;
        if touches == 0 {
            return Err(PlanError::StrideTooLarge { stride, mem });
        }
        if !self.overlap && touches < self.vcpus as u64 {
            return Err(PlanError::TooManyVcpus { vcpus: self.vcpus, touches });
        }
        Ok(())
    }

    /// What vCPU `id` touches. Without overlap the shares follow each other and leave nothing out.
    #[must_use]
    pub fn share(&self, id: u32) -> Share {
        let stride = self.pattern.stride();
        let all = self.mem.bytes() / stride;
        let part = |id: u32| {
            let product = u128::from(all) * u128::from(id) / u128::from(self.vcpus.max(1));
            u64::try_from(product).unwrap_or(all)
        };
        let (first, end) = if self.overlap { (0, all) } else { (part(id), part(id + 1)) };
        let count = end - first;
        let permutation = (self.pattern == Pattern::Random)
            .then(|| Permutation::new(count, self.seed.wrapping_add(id.into())));
        Share { base: RAM_BASE + first * stride, count, stride, permutation }
    }

    /// The most touches that one vCPU has.
    #[must_use]
    pub fn largest_share(&self) -> u64 {
        (0..self.vcpus).map(|id| self.share(id).count).max().unwrap_or(0)
    }

    /// How many first touches one sample has, over all vCPUs.
    #[must_use]
    pub fn touches(&self) -> u64 {
        (0..self.vcpus).map(|id| self.share(id).count).sum()
    }

    /// How many different bytes of RAM lie in 4 KiB pages that are touched.
    #[must_use]
    pub fn touched_bytes(&self) -> u64 {
        let stride = self.pattern.stride();
        let words = self.mem.bytes() / stride;
        let pages = if stride < PAGE { words.saturating_sub(1) * stride / PAGE + 1 } else { words };
        pages * PAGE
    }
}

impl Share {
    /// The command that touches the share once.
    #[must_use]
    pub fn command(&self, access: Access) -> Command {
        Command {
            op: Op::Touch,
            base: self.base,
            count: self.count,
            stride: self.stride,
            permutation: self.permutation,
            access,
            ..Command::default()
        }
    }

    /// How many samples a pass over the share leaves.
    pub(super) fn words(&self) -> usize {
        usize::try_from(self.count).unwrap_or(usize::MAX)
    }

    /// The address of the touch that comes at place `order`, below the count.
    #[must_use]
    pub fn address(&self, order: u64) -> u64 {
        let index = self.permutation.map_or(order, |permutation| permutation.apply(order));
        self.base + index * self.stride
    }
}

/// Backings in the order in which they are measured when the user names none: all but a file, which needs a path.
#[must_use]
pub fn default_backings() -> Vec<Backing> {
    Backing::NAMED.to_vec()
}

#[cfg(test)]
mod tests;
