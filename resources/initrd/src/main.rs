//! The init of the test guest. It mounts what Linux has to show, runs the tests that the kernel's command line names
//! and powers off with a status that the VMM sees.
//!
//! `underlay.test=NAME[:ARGUMENT...][,NAME...]`: tests run in order and the first that fails is the last. Every line on
//! the console that is this program's own starts with `init: ` and a word; figures follow as `key=value`.

#![no_std]
#![no_main]

mod console;
mod disk;
mod machine;
mod memory;
mod net;
mod outcome;
mod process;
mod random;
mod region;
mod runtime;
mod script;

use console::say;
use outcome::Failure;

/// Runs as process 1; the VMM ends it.
fn main() -> ! {
    say!("start");
    let result = machine::mount_all().and_then(|()| {
        machine::report();
        script::run()
    });
    match &result {
        Ok(()) => say!("done status=0"),
        Err(failure) => say!("done status={} reason=\"{failure}\"", failure.status()),
    }
    machine::power_off(result.as_ref().err().map_or(0, Failure::status));
}
