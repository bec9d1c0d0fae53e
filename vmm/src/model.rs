//! A second stage in software: the model of what KVM does with guest-physical addresses, and the oracle of whether its
//! translations are true.
//!
//! A [`SecondStage`] makes its translations from a [`guest_mem::Mm`] as KVM makes its own from the host's page tables: on
//! demand, at a fault, in a table of four levels. It subscribes to the same notifier and follows the same protocol:
//!
//! ```text
//! access                                   invalidation of a range
//!   walk, locked for reading: found, use
//!   not found, or it forbids the write:
//!     take a ticket                        start, locked for writing:
//!     have the Mm resolve the fault          the range is in progress; drop what is held of it
//!     read the Mm's entry                  the Mm changes its entries
//!     lock for writing                     end, locked for writing: all tickets are old
//!     ticket old, or range in progress?
//!       start over
//!     install, use
//! ```
//!
//! A translation is used, as by a processor in the guest, only while the lock is held. So an invalidation that
//! started has no user left, and what is held can be compared with the Mm at any time ([`SecondStage::check`]).

mod check;
mod entry;
mod second_stage;
mod table;
mod translations;

pub use check::Stale;
pub use entry::{Leaf, Level};
pub use second_stage::{Access, AccessError, FaultCounts, SecondStage, SecondStageError};
