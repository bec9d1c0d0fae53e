//! Real guests under KVM: what they write they read back, and KVM's counts are what the backing promises.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod guests {
    pub(crate) mod backings;
    pub(crate) mod discard;
    pub(crate) mod failures;
    pub(crate) mod managed;
    pub(crate) mod sharing;
    pub(crate) mod support;
    pub(crate) mod vcpus;
}

use std::process::ExitCode;

use underlay_tests::Suite;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    guests::backings::add_to(&mut suite);
    guests::vcpus::add_to(&mut suite);
    guests::discard::add_to(&mut suite);
    guests::failures::add_to(&mut suite);
    guests::managed::add_to(&mut suite);
    guests::sharing::add_to(&mut suite);
    suite.run()
}
