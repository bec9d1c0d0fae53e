//! The host's memory system calls: all that the crate makes, and nothing else.
//!
//! Everything here is safe to call: offsets are checked against the mapping they are for, and what was mapped is
//! unmapped on drop. Errors are the system's own; the modules above say what they mean.
#![expect(unsafe_code, reason = "system calls that map and unmap memory cannot be checked by the compiler")]

mod file;
mod inject;
mod mapping;
mod memfd;
mod pagemap;
mod pages;
mod pool;
mod probe;
mod process;
mod thread;
mod userfaultfd;
mod words;

pub use file::BackingFileError;
pub(crate) use file::open_regular;
#[cfg(all(test, not(loom)))]
pub(crate) use inject::RandomPlan;
pub(crate) use inject::{Injector, Operation};
pub(crate) use mapping::{Advice, MapError, Mapping, Source};
pub(crate) use memfd::{allocated_bytes, memfd, punch_hole, reserve_huge_pages};
pub(crate) use pages::MoveError;
pub(crate) use pool::{DirectMap, DirectMapError, PageKind};
pub(crate) use probe::{collapse, name_anonymous, pagemap_scan, populate_write};
pub(crate) use process::thp_disabled_for_process;
pub(crate) use thread::{bind_thread, time_stamp};
pub(crate) use userfaultfd::{
    Event, FaultKind, OpenUserfaultfdError, Protection, RegisterError, StopEvent, UffdError, Userfaultfd,
};

use std::io;

/// What a system call that returns 0 or -1 said.
fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
