//! Whoever keeps a translation is told before the host takes the page away, also where the page had been given up.

use mmu_notifier::{Invalidation, Subscriber, WouldBlock};

use super::{
    faulty::{Faulty, mm_on_faulty},
    *,
};
use crate::{FaultAround, PageSize};

/// Looks, when it is told, whether the host maps a page.
struct Onlooker {
    host: Arc<Faulty>,
    page: u64,
    saw_it_mapped: AtomicBool,
}

impl Subscriber for Onlooker {
    fn name(&self) -> &'static str {
        "onlooker"
    }

    fn invalidate_range_start(&self, _: &Invalidation) -> Result<(), WouldBlock> {
        self.saw_it_mapped.store(self.host.maps(self.page), Relaxed);
        Ok(())
    }
}

#[test]
fn a_page_that_was_given_up_and_is_mapped_again_goes_after_its_start() {
    let around = FaultAround { base_bytes: 16 * PAGE_SIZE, ..FaultAround::default() };
    let (mm, host) = mm_on_faulty(&MmConfig { around, ..MmConfig::new(pages(0, 512)) }, None);
    let onlooker = Arc::new(Onlooker { host: host.clone(), page: 3, saw_it_mapped: AtomicBool::new(false) });
    mm.owner().register(onlooker.clone()).unwrap();
    mm.poison(gfn(3), PageSize::Base).unwrap();
    mm.touch(gfn(2).address(), true).unwrap();
    assert!(host.maps(3), "a fault of its neighbour maps it");

    mm.discard(pages(3, 1)).unwrap();

    assert!(onlooker.saw_it_mapped.load(Relaxed), "it was gone when its start was announced");
    assert!(!host.maps(3));
}
