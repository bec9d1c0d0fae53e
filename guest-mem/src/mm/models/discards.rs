//! Discards against whoever uses the page meanwhile.

use mmu_notifier::{Gate, Invalidation, Subscriber, WouldBlock};

use super::*;

/// A page that is mapped.
fn mapped() -> Arc<Guest> {
    let guest = Guest::of_base_pages();
    guest.access(PAGES[0]);
    guest
}

fn first_page() -> AddressRange {
    AddressRange::new(0, PAGE_SIZE).unwrap()
}

/// A vCPU touches the page while it is discarded: it is mapped in the end, or not, and the vCPU goes on.
fn and_a_fault(planted: Option<Bug>) {
    explore(PREEMPTIONS, planted, || {
        let guest = mapped();
        let vcpu = spawn(&guest, |guest| guest.access(PAGES[0]));
        let discarded = guest.mm.discard(first_page()).unwrap();
        vcpu.join().unwrap();

        assert_eq!((discarded.freed_bytes, discarded.pinned_bytes), (PAGE_SIZE, 0));
        guest.check_and_end();
    });
}

#[test]
fn a_fault_on_a_page_that_is_being_discarded_is_resolved_or_woken() {
    and_a_fault(None);
}

#[test]
#[should_panic(expected = "Taken")]
fn planted_opening_the_entry_first_is_caught() {
    and_a_fault(Some(Bug::OpenFirst));
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_waking_nobody_is_caught() {
    and_a_fault(Some(Bug::NoWake));
}

#[test]
#[should_panic(expected = "deadlock")]
fn planted_waking_first_is_caught() {
    and_a_fault(Some(Bug::WakeFirst));
}

/// Both pages are discarded, one by one, while both are touched.
#[test]
fn two_discards_and_a_fault_leave_nothing_behind() {
    explore(1, None, || {
        let guest = mapped();
        let vcpu = spawn(&guest, |guest| guest.access(PAGES[0]));
        let other = spawn(&guest, |guest| {
            guest.mm.discard(both()).unwrap();
        });
        guest.mm.discard(first_page()).unwrap();
        vcpu.join().unwrap();
        other.join().unwrap();

        guest.check_and_end();
    });
}

/// A second stage: it uses a page without a reference for as long as its gate lets it.
pub(super) struct Device {
    pool: Arc<FramePool>,
    gate: Gate<()>,
}

impl Device {
    pub(super) fn new(pool: &Arc<FramePool>) -> Self {
        Self { pool: Arc::clone(pool), gate: Gate::new(()) }
    }

    /// Translates page 0 and uses it.
    pub(super) fn work(&self, guest: &Guest) {
        let ticket = self.gate.enter();
        if guest.mm.table.walk(PAGES[0]).is_present() {
            let gate = self.gate.read();
            if !gate.retry(ticket, 0) {
                assert!(guest.host.mapped()[0], "used after it was taken away");
                guest.use_page(PAGES[0]);
            }
        }
    }
}

impl Subscriber for Device {
    fn name(&self) -> &'static str {
        "device"
    }

    fn invalidate_range_start(&self, invalidation: &Invalidation) -> Result<(), WouldBlock> {
        self.gate.write().start(invalidation.range());
        Ok(())
    }

    fn invalidate_range_end(&self, _: &Invalidation) {
        let taken = self.pool.report().usage.used;
        assert_eq!(taken, 1, "given back before the end");
        self.gate.write().end();
    }
}

/// A second stage uses the page while it is discarded and mapped anew.
fn and_a_subscriber(planted: Option<Bug>) {
    explore(PREEMPTIONS, planted, || {
        let guest = mapped();
        let device = Arc::new(Device::new(&guest.pool));
        guest.mm.owner().register(device.clone()).unwrap();
        let working = spawn(&guest, move |guest| device.work(guest));
        guest.mm.discard(first_page()).unwrap();
        guest.access(PAGES[0]);
        working.join().unwrap();

        guest.check_and_end();
    });
}

#[test]
fn a_subscriber_uses_no_frame_that_was_freed() {
    and_a_subscriber(None);
}

#[test]
#[should_panic(expected = "used after it was taken away")]
fn planted_closing_before_the_start_is_caught() {
    and_a_subscriber(Some(Bug::CloseFirst));
}

#[test]
#[should_panic(expected = "given back before the end")]
fn planted_giving_back_before_the_end_is_caught() {
    and_a_subscriber(Some(Bug::FreeBeforeEnd));
}

/// A reader without a lock uses the page if it gets a reference, while it is discarded and mapped anew.
#[test]
fn a_reader_holds_no_frame_that_was_freed() {
    explore(PREEMPTIONS, None, || {
        let guest = mapped();
        let reader = spawn(&guest, |guest| {
            if let Some((folio, _)) = guest.mm.table.get(PAGES[0], guest.mm.folios()) {
                guest.use_page(PAGES[0]);
                drop(folio);
            }
        });
        guest.mm.discard(first_page()).unwrap();
        guest.access(PAGES[0]);
        reader.join().unwrap();

        guest.check_and_end();
    });
}

/// A device pins the page and uses it, while it is discarded and mapped anew.
fn and_a_pin(planted: Option<Bug>) {
    explore(PREEMPTIONS, planted, || {
        let guest = mapped();
        let device = spawn(&guest, |guest| {
            if let Ok(pin) = guest.mm.table.pin(first_page(), true, guest.mm.folios()) {
                guest.use_page(PAGES[0]);
                drop(pin);
            }
        });
        let discarded = guest.mm.discard(first_page()).unwrap();
        guest.access(PAGES[0]);
        device.join().unwrap();

        assert_eq!(discarded.freed_bytes + discarded.pinned_bytes, PAGE_SIZE);
        guest.check_and_end();
    });
}

#[test]
fn what_is_pinned_is_not_freed() {
    and_a_pin(None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_looking_then_freeing_is_caught() {
    and_a_pin(Some(Bug::LookThenFree));
}
