//! The `underlay` command as its users meet it: what it prints, how it refuses, what it leaves behind.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod command {
    pub(crate) mod bad_input;
    pub(crate) mod devices;
    pub(crate) mod interrupted;
    pub(crate) mod modelled;
    pub(crate) mod options;
    pub(crate) mod outputs;
    pub(crate) mod results;
    pub(crate) mod run;
    pub(crate) mod sizes;
}

use std::process::ExitCode;

use underlay_tests::Suite;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    command::results::add_to(&mut suite);
    command::run::add_to(&mut suite);
    command::devices::add_to(&mut suite);
    command::bad_input::add_to(&mut suite);
    command::sizes::add_to(&mut suite);
    command::options::add_to(&mut suite);
    command::outputs::add_to(&mut suite);
    command::modelled::add_to(&mut suite);
    command::interrupted::add_to(&mut suite);
    suite.run()
}
