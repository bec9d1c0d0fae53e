//! The software second stage over a memory manager whose host maps nothing: the oracle of its announcements.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faults;
mod history;
mod naive;
mod space;
mod threads;
