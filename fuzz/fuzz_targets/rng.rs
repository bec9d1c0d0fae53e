//! The source of entropy.
#![no_main]

use libfuzzer_sys::fuzz_target;
use underlay_fuzz::{Step, drive};
use vmm::virtio::rng::Rng;

fuzz_target!(|steps: Vec<Step>| drive(Rng::new(), &steps));
