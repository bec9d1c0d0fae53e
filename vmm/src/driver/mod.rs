//! The fault-driver guest: what it is told, where it lives, and what it leaves behind.
//!
//! The guest itself is assembly, `resources/guest/fault_driver.s`. This module knows its formats and touches no KVM:
//! [`Layout`] says where everything lies in guest-physical memory, [`write_tables`] prepares its page tables,
//! [`Command`] and [`Outcome`] are the two halves of a vCPU's mailbox, [`Permutation`] and [`Histogram`] are the
//! other side of what it computes.

mod histogram;
mod image;
mod layout;
mod mailbox;
mod page_tables;
mod pattern;
mod permutation;

pub use histogram::{BUCKETS, Histogram};
pub use image::image;
pub use layout::{DOORBELL, Layout, LayoutError, RAM_BASE, VcpuArea};
pub use mailbox::{Access, Command, MAILBOX_SIZE, Op, Outcome, Record, TimedTouch};
pub use page_tables::{GuestPage, ParseGuestPageError, write_tables};
pub use pattern::pattern;
pub use permutation::Permutation;
