//! SIGKILL, which nobody can clean up after: what a microVM had of its host is there for the next one all the same.

use std::{collections::BTreeSet, fs, io::ErrorKind};

use guest_mem::{HugePagePool, HugePageSize};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use underlay_tests::{
    Need, Suite, TAP, huge_pages, in_own_network, underlay, write_tiny_kernel,
};

use super::served::{Served, spawn, wait_until};
