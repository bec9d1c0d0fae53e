//! Guest RAM on this host, without KVM: each backing from creation to drop, and what a discard leaves.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod memory {
    pub(crate) mod create;
    pub(crate) mod discard;
    pub(crate) mod life;
    pub(crate) mod race;
    pub(crate) mod support;
}

use std::process::ExitCode;

use underlay_tests::Suite;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    memory::life::add_to(&mut suite);
    memory::create::add_to(&mut suite);
    memory::discard::add_to(&mut suite);
    memory::race::add_to(&mut suite);
    suite.run()
}
