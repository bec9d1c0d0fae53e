//! `underlay run` configured and driven from outside: by its API, by files, and by clients that were written for
//! Firecracker.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api {
    pub(crate) mod claims;
    pub(crate) mod clients;
    pub(crate) mod files;
    pub(crate) mod full;
    pub(crate) mod guests;
    pub(crate) mod served;
    pub(crate) mod sockets;
}

use std::process::ExitCode;

use underlay_tests::Suite;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    api::sockets::add_to(&mut suite);
    api::claims::add_to(&mut suite);
    api::files::add_to(&mut suite);
    api::full::add_to(&mut suite);
    api::guests::add_to(&mut suite);
    api::clients::add_to(&mut suite);
    suite.run()
}
