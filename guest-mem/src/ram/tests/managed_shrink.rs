//! Shrinking RAM that this process's own threads use meanwhile.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

use super::*;
use crate::{FaultAround, ManagedConfig, Stock};

const PAGE: u64 = 4096;
const PAGES: u64 = 64;

#[test]
fn nothing_that_is_written_is_lost_to_a_shrink() {
    let managed = ManagedConfig { around: FaultAround::OFF, stock: Stock::None, ..ManagedConfig::default() };
    let size = ByteSize::new(4 * M).unwrap();
    let config = GuestRamConfig { managed, ..GuestRamConfig::new(size, Backing::Managed4kb) };
    let ram = GuestRam::create(config).unwrap();
    let written = AtomicBool::new(false);

    let freed = thread::scope(|scope| {
        // Each page is zeros every third time, and so may go; what it is next is written into what comes back.
        scope.spawn(|| {
            let value = |page: u64, round: u64| if (page + round).is_multiple_of(3) { 0 } else { round };
            for round in 1..60 {
                for page in 0..PAGES {
                    let at = GuestAddress(page * PAGE + 8 * page);
                    if round > 1 {
                        let read: u64 = ram.view().read_obj(at).unwrap();
                        assert_eq!(read, value(page, round - 1), "page {page}, round {round}");
                    }
                    ram.view().write_obj(value(page, round), at).unwrap();
                }
            }
            written.store(true, SeqCst);
        });
        let mut freed = 0;
        while !written.load(SeqCst) {
            freed += ram.mm().unwrap().shrink(u64::MAX).freed_bytes;
        }
        freed
    });

    assert!(freed > 0);
    let mapped = ram.mm().unwrap().page_table().mapped().base;
    assert!(mapped <= PAGES, "{mapped}");
}
