//! Linux's mmu notifiers, in user space: whoever keeps a translation of an address space is told *before* a page
//! goes away, and a reader that raced with that finds out.
//!
//! This crate knows no KVM, no `mmap` and no guest. It holds what the rest is built on: [`sync`], the facade through
//! which every atomic, lock and thread of the crate comes, so that loom can model them; [`AddressRange`], the unit in
//! which every change of an address space is announced; the locks of an address space ([`MmapLock`], [`VmaLock`],
//! [`RmapLock`]) and their [`order`]; and [`take_all_locks`], which holds all of them at once.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod all_locks;
mod counters;
mod entry;
mod event;
mod gate;
mod interrupt;
mod interval;
mod invalidate;
pub mod lock;
mod marks;
#[cfg(all(test, loom))]
mod models;
mod once;
pub mod order;
mod parking;
mod planted;
mod range;
mod rcu;
mod register;
mod subscriber;
mod subscriptions;
pub mod sync;
pub mod testing;
mod unregister;
mod witness;
mod young;

pub use all_locks::{AllLocksGuard, LockedSpace, take_all_locks};
pub use counters::Counters;
pub use event::{Event, Invalidation, Tag, WouldBlock};
pub use gate::{Gate, GateReadGuard, GateWriteGuard, Ticket};
pub use interrupt::{InterruptToken, Interrupted};
pub use interval::{IntervalSubscription, RemoveError, Sequence, SequenceIsSet, SequenceUpdate};
pub use invalidate::{InvalidationGuard, Refused};
pub use lock::{
    MmapLock, MmapReadGuard, MmapWriteGuard, RmapLock, RmapReadGuard, RmapWriteGuard, VmaLock, VmaReadGuard,
    VmaWriteGuard,
};
pub use range::{AddressRange, PAGE_SIZE, RangeError};
pub use register::{AllLocks, Engine, GracePeriod, RegisterError};
pub use subscriber::{IntervalSubscriber, Subscriber};
pub use subscriptions::{SubscriberId, Subscriptions, WrongPlace};
pub use unregister::{ReleaseError, UnregisterError};
pub use witness::{Exempt, Witness};

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("underlay runs on x86_64 Linux only: it needs that architecture's KVM and page-table formats");
