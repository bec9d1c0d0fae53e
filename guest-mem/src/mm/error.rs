//! Why an address space is not made, and why a fault is not resolved.

use std::io;

use mmu_notifier::AddressRange;

use super::FaultAround;
use crate::{
    BLOCK_SIZE, Gfn,
    pgtable::BeyondAddressSpace,
    pool::{ReserveError, TakeError},
    vma::InsertError,
};

/// Why there is no address space; nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum CreateMmError {
    /// The range does not begin where a huge page can.
    #[error("managed guest RAM at {range} must begin at a multiple of {BLOCK_SIZE:#x}")]
    Unaligned {
        /// The range.
        range: AddressRange,
    },
    /// No such window.
    #[error(
        "{around:?} is no window for fault-around: bytes are powers of two from 4096 to {BLOCK_SIZE}, huge pages at least 1, and the most not less than the least"
    )]
    FaultAround {
        /// The window.
        around: FaultAround,
    },
    /// The range lies too high.
    #[error(transparent)]
    Range(#[from] BeyondAddressSpace),
    /// The memory that it is to show is smaller.
    #[error("{range} cannot show memory of {bytes:#x} bytes: make it no larger than that")]
    Beyond {
        /// The range.
        range: AddressRange,
        /// The memory's bytes.
        bytes: u64,
    },
    /// The pool has no frames for it.
    #[error("the pool cannot hold the guest's RAM")]
    Reserve(#[from] ReserveError),
    /// The first VMA was refused.
    #[error(transparent)]
    Vma(#[from] InsertError),
}

/// Why a fault was not resolved. Whoever faulted was woken, and faults again.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// There is no frame for it.
    #[error("there is no frame for guest page {:#x}", gfn.get())]
    NoFrame {
        /// The page.
        gfn: Gfn,
        /// Why not.
        #[source]
        source: TakeError,
    },
    /// The host did not map it.
    #[error("the host did not map guest page {:#x}", gfn.get())]
    Host {
        /// The page.
        gfn: Gfn,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The host mapped it, failed, and did not take it back: its frames stay taken until it does.
    #[error("the host may map guest page {:#x}, and did not take that back", gfn.get())]
    Stuck {
        /// The page.
        gfn: Gfn,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// Its filler failed.
    #[error("the filler {filler} did not fill guest page {:#x}", gfn.get())]
    Fill {
        /// The page.
        gfn: Gfn,
        /// The filler's name.
        filler: String,
        /// What it returned.
        #[source]
        source: io::Error,
    },
    /// Others changed the page again and again; this fault gave way so as not to hold its thread.
    #[error("guest page {:#x} changed again and again while its fault was resolved", gfn.get())]
    Contended {
        /// The page.
        gfn: Gfn,
    },
    /// No VMA is there.
    #[error("guest page {:#x} is in no VMA", gfn.get())]
    NoVma {
        /// The page.
        gfn: Gfn,
    },
    /// The process ends.
    #[error("the process ends")]
    Exiting,
}

impl FaultError {
    /// Whether somebody else has the frame.
    pub(super) const fn is_taken(&self) -> bool {
        matches!(self, Self::NoFrame { source: TakeError::Taken(_), .. })
    }
}
