//! Real guests on managed RAM, while the host does to that RAM all that it can at once.
//!
//! `UNDERLAY_TORTURE_SECONDS` says for how long each variant runs: 60 to be sure, 20 as in `.ci/run`, 5 unless it is set.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod torture {
    pub(crate) mod chaos;
    pub(crate) mod filler;
    pub(crate) mod remains;
    pub(crate) mod run;
    pub(crate) mod watchdog;
    pub(crate) mod zones;
}

use std::process::ExitCode;

use guest_mem::{Backing, HugePageSize};
use torture::{filler, run};
use underlay_tests::{Need, Suite};

fn main() -> ExitCode {
    filler::keep_planted_panics_quiet();
    let mut suite = Suite::new();
    for backing in [Backing::Managed4kb, Backing::Managed2mb, Backing::ManagedThp] {
        for vcpus in [2, 4] {
            let pages = match backing {
                Backing::Managed2mb => Some(Need::HugePages(HugePageSize::Mb2, run::BYTES >> 21)),
                Backing::ManagedThp => Some(Need::ShmemThp),
                _ => None,
            };
            let needs: Vec<_> = [Need::Kvm, Need::ManagedFaults].into_iter().chain(pages).collect();
            let backing = backing.clone();
            let name = format!("{backing}_vcpus_{vcpus}::not_one_wrong_byte_and_not_one_frame_lost");
            suite.test(name, &needs, move || run::torture(&backing, vcpus));
        }
    }
    suite.run()
}
