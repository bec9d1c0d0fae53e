//! A real userfaultfd on real memory, and no guest: threads of this process fault.
#![cfg(not(loom))]

mod errors;
mod events;
mod hugetlb;
mod open;
mod resolve;
mod window;
mod write_protect;
