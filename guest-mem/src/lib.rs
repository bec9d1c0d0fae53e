//! Guest RAM: how it is backed, named, populated, discarded and accounted for.
//!
//! [`GuestRam`] is the one memory type that a VMM sees. Here the kernel resolves the faults: the VMM chooses a
//! [`Backing`], the kernel fills pages in as the guest touches them.
//!
//! ```
//! use guest_mem::{Backing, GuestRam, GuestRamConfig};
//! use mmu_notifier::AddressRange;
//! use vm_memory::{Bytes, GuestAddress};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ram = GuestRam::create(GuestRamConfig::new("16M".parse()?, Backing::Anonymous))?;
//! ram.view().write_obj(7_u64, GuestAddress(0x1000))?;
//!
//! ram.discard(AddressRange::new(0x1000, 0x1000)?)?;
//! assert_eq!(ram.view().read_obj::<u64>(GuestAddress(0x1000))?, 0);
//! # Ok(())
//! # }
//! ```
//!
//! This crate knows no KVM. System calls on memory are made in one private module, `host`; everything above it is
//! plain logic.

mod availability;
mod backing;
mod config;
mod create;
mod discard;
pub mod folio;
mod frame;
mod host;
mod host_files;
#[cfg(any(test, feature = "testing"))]
mod host_settings;
mod huge_pages;
mod managed;
mod memory_call;
mod mm;
#[cfg(all(test, loom))]
mod models;
mod name;
mod numa;
mod order;
pub mod pgtable;
mod pinned;
mod planted;
pub mod pool;
mod prefault;
mod ram;
mod region;
mod report;
pub mod rmap;
mod service;
mod share;
mod shared_hugetlb;
mod size;
#[cfg(test)]
#[cfg(not(loom))]
mod testing;
mod userfaultfd;
pub mod vma;

pub use availability::{Unavailable, UnavailableReason};
pub use backing::{Backing, ParseBackingError};
pub use config::{GuestRamConfig, Prefault};
pub use create::CreateRamError;
pub use discard::{DiscardError, Discarded};
pub use frame::{BLOCK_PAGES, BLOCK_SIZE, Gfn, PageSize, Pfn};
pub use host::BackingFileError;
pub use host_files::HostFileError;
#[cfg(any(test, feature = "testing"))]
pub use host_settings::{HostSettings, SettingRefused};
pub use huge_pages::{HugePagePool, HugePageSize, ReadPoolError};
pub use managed::{ManagedConfig, ManagedError, Stock};
pub use memory_call::MemoryCall;
pub use mm::{
    ChangeError, CreateMmError, FaultAround, FaultCount, FaultError, FaultReason, FileFiller, Filler, Mm,
    MmConfig, MmReport, MmStats, SharedMemory, Shrunk, Usage, VmaReport,
};
pub use numa::NumaError;
pub use pinned::{RamPin, RamPinError};
pub use ram::{GuestRam, HostAddress};
pub use region::{GuestMemoryView, GuestRegion};
pub use report::{RamReport, ReportError};
pub use service::{FaultTrace, ServiceConfig, Waiting};
pub use size::{ByteSize, ParseSizeError};
pub use userfaultfd::{UserfaultfdFeatures, UserfaultfdProbe, UserfaultfdWay, probe_userfaultfd};
