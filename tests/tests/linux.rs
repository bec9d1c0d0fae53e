//! Real Linux in microVMs, on every kind of guest RAM. Where KVM emulates kernel code a boot takes seconds.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod linux {
    pub(crate) mod balloon;
    pub(crate) mod boot;
    pub(crate) mod disk;
    pub(crate) mod net;
    pub(crate) mod running;
    pub(crate) mod support;
}

use std::process::ExitCode;

use underlay_tests::Suite;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    linux::boot::add_to(&mut suite);
    linux::running::add_to(&mut suite);
    linux::disk::add_to(&mut suite);
    linux::net::add_to(&mut suite);
    linux::balloon::add_to(&mut suite);
    suite.run()
}
