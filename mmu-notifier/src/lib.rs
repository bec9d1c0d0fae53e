//! Linux's mmu notifiers, in user space: whoever keeps a translation of an address space is told *before* a page
//! goes away, and a reader that raced with that finds out.
//!
//! This crate knows no KVM, no `mmap` and no guest. It holds what the rest is built on: [`sync`], the facade through
//! which every atomic, lock and thread of the crate comes, so that loom can model them; and [`AddressRange`], the
//! unit in which every change of an address space is announced.

mod range;
pub mod sync;

pub use range::{AddressRange, PAGE_SIZE, RangeError};

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("underlay runs on x86_64 Linux only: it needs that architecture's KVM and page-table formats");
