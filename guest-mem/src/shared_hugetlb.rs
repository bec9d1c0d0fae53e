//! Freeing huge pages of a shared memfd, so that no touch ever fails for it.
//!
//! Punching a hole gives up the reservation of its pages, and only then frees them; reserving them again is another
//! call. Whoever touches the hole in between has no promise, and its fault needs a page beyond those that were promised:
//!
//! ```text
//! discard                          touch of the same page
//! punch: the promise is gone
//!                                  fault: no promise, so an unpromised page will do
//! punch: the page is free
//! reserve: it is promised
//!                                  fault: no page without a promise is left: SIGBUS
//! ```
//!
//! So the range is taken out of the mapping first. Plain memory stands in for it; a touch lands there and asks nothing
//! of the pool. When the file's pages are mapped again, they are promised, and the old ones are free.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use crate::discard::FreeError;
use crate::host::{self, Mapping, MoveError};

/// How often pages that are still in use are asked for.
const ATTEMPTS: u32 = 100;
/// How long whoever uses them gets between two attempts; all of them together take 10 ms or a little more.
const PAUSE: Duration = Duration::from_micros(100);

/// Frees the pages of `file` in `range`, which `mapping` has at the same offset, and reserves as many for it again.
pub(crate) fn free(mapping: &Mapping, file: &File, range: &Range<u64>) -> Result<(), FreeError> {
    let punch_and_reserve = || {
        host::punch_hole(file, range).map_err(FreeError::Refused)?;
        reserve(file, range).map_err(FreeError::ReservationLost)
    };
    mapping.without_file(file, range.clone(), punch_and_reserve).map_err(|error| match error {
        MoveError::Refused(source) => FreeError::Refused(source),
        MoveError::Lost(source) => FreeError::RamLost(source),
    })?
}

/// A page that the kernel is reading or writing for somebody, a system call or the fault of a vCPU, goes back to the pool
/// when that is done: `ENOMEM` is final only if it stays.
fn reserve(file: &File, range: &Range<u64>) -> io::Result<()> {
    for _ in 1..ATTEMPTS {
        match host::reserve_huge_pages(file, range) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => thread::sleep(PAUSE),
            result => return result,
        }
    }
    host::reserve_huge_pages(file, range)
}
