//! loom models of folios: at most 3 threads, 2 pages in a huge folio, 3 forced switches (2 where a folio is filled
//! before two waiters).
//!
//! Each protocol is modelled once as it is, and once with each bug that it must catch
//! ([`planted`](crate::planted)). What a frame holds is a loom cell: filling, zeroing or freeing it is a write, using
//! it is a read, and loom stops the model when the two are not ordered.
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its model")]

mod lock;
mod mapcounts;
mod references;

use crate::{
    models::{Content, explore},
    planted::Bug,
};

/// The bound on forced switches.
const PREEMPTIONS: usize = 3;

#[track_caller]
fn model(planted: Option<Bug>, f: impl Fn() + Sync + Send + 'static) {
    explore(PREEMPTIONS, planted, f);
}
