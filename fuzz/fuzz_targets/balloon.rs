//! The balloon, with all of its queues.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use underlay_fuzz::{Step, drive};
use vmm::virtio::balloon::{Balloon, BalloonConfig};

fuzz_target!(|steps: Vec<Step>| {
    let config = BalloonConfig {
        amount_mib: 0,
        deflate_on_oom: true,
        stats_interval: Some(Duration::from_secs(3600)),
        free_page_reporting: true,
        free_page_hinting: true,
    };
    drive(Balloon::new(config, 1 << 20).expect("there are timers"), &steps);
});
