//! Managed RAM under the touches of this process's own threads, which userfaultfd reports as it does a guest's.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::frame::PAGE_BYTES;
use crate::{FaultAround, FaultReason, Filler, ManagedConfig, ServiceConfig, Stock, vma::VmaChange};

const PAGE: u64 = 4096;

fn ram(megabytes: u64, managed: ManagedConfig) -> GuestRam {
    let size = ByteSize::new(megabytes * M).unwrap();
    GuestRam::create(GuestRamConfig { managed, ..GuestRamConfig::new(size, Backing::Managed4kb) }).unwrap()
}

fn range(start: u64, len: u64) -> AddressRange {
    AddressRange::new(start, len).unwrap()
}

#[test]
fn what_was_never_written_is_zeros_and_what_was_is_kept() {
    let ram = ram(4, ManagedConfig::default());
    for page in (0..4 * M).step_by(PAGE_BYTES) {
        assert_eq!(ram.view().read_obj::<u64>(GuestAddress(page)).unwrap(), 0);
        ram.view().write_obj(page + 1, GuestAddress(page)).unwrap();
    }

    for page in (0..4 * M).step_by(PAGE_BYTES) {
        assert_eq!(ram.view().read_obj::<u64>(GuestAddress(page)).unwrap(), page + 1);
    }
    let mm = ram.mm().unwrap();
    assert_eq!(mm.page_table().mapped().base, 4 * M / PAGE);
    // 16 pages, 32, 64, 128, 256, the 16 that are left of the first 2 MiB, and all of the second.
    assert_eq!(mm.stats().of(FaultReason::Base), 7);
    assert_eq!(ram.report().unwrap().resident_bytes, Some(4 * M));
}

#[test]
fn only_what_is_touched_is_mapped_without_fault_around() {
    let around = FaultAround::OFF;
    let ram = ram(4, ManagedConfig { around, stock: Stock::None, ..ManagedConfig::default() });

    for page in [0, 7, 513] {
        ram.view().write_obj(7_u8, GuestAddress(page * PAGE)).unwrap();
    }

    assert_eq!(ram.mm().unwrap().page_table().mapped().base, 3);
    assert_eq!(ram.report().unwrap().resident_bytes, Some(3 * PAGE));
}

#[test]
fn what_is_discarded_reads_as_zeros_while_others_touch_it() {
    let ram = Arc::new(ram(2, ManagedConfig::default()));
    let all = range(0, 2 * M);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 1..200_u64 {
                for page in (0..2 * M).step_by(16 * PAGE_BYTES) {
                    ram.view().write_obj(round, GuestAddress(page)).unwrap();
                    let read = ram.view().read_obj::<u64>(GuestAddress(page)).unwrap();
                    assert!(read == round || read == 0, "{read} at {page:#x} in round {round}");
                }
            }
        });
        while !writer.is_finished() {
            ram.discard(all).unwrap();
        }
    });

    ram.discard(all).unwrap();

    assert_eq!(ram.mm().unwrap().page_table().mapped().base, 0);
    assert_eq!(ram.report().unwrap().resident_bytes, Some(2 * M), "kept for the next touch");
    let mut word = [7; 64];
    ram.view().read_slice(&mut word, GuestAddress(M)).unwrap();
    assert_eq!(word, [0; 64]);
}

/// Fills each page with its number, as far as nothing goes wrong.
#[derive(Default)]
struct Numbering {
    fills: AtomicU64,
    /// The first so many fills panic.
    panics: u64,
    /// The first so many fills take longer than anybody waits: until they need not go on.
    stalls: u64,
    enough: AtomicBool,
    /// How many of these have ended.
    stalled: AtomicU64,
}

impl Filler for Numbering {
    fn name(&self) -> &'static str {
        "numbering"
    }

    fn fill(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let fill = self.fills.fetch_add(1, Ordering::Relaxed);
        assert!(fill >= self.panics, "planted");
        if fill < self.stalls {
            let started = Instant::now();
            while !self.enough.load(Ordering::Relaxed) && started.elapsed() < Duration::from_secs(10) {
                thread::sleep(Duration::from_millis(1));
            }
            into.fill(0xee);
            self.stalled.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        for (page, bytes) in (offset / PAGE..).zip(into.chunks_mut(PAGE_BYTES)) {
            bytes.fill(0);
            bytes[..8].copy_from_slice(&page.to_le_bytes());
        }
        Ok(())
    }
}

fn filled(filler: Numbering) -> (Arc<Numbering>, GuestRam) {
    let filler = Arc::new(filler);
    // A panic that is told with its backtrace takes its time, and is not to be taken for a stall.
    let deadline = Duration::from_millis(if filler.stalls > 0 { 300 } else { 10_000 });
    let service = ServiceConfig { deadline, ..ServiceConfig::default() };
    let ram = ram(2, ManagedConfig { filler: Some(filler.clone()), service, ..ManagedConfig::default() });
    (filler, ram)
}

fn assert_numbered(ram: &GuestRam) {
    for page in 0..512_u64 {
        assert_eq!(ram.view().read_obj::<u64>(GuestAddress(page * PAGE)).unwrap(), page);
    }
}

#[test]
fn a_filler_supplies_the_first_content_and_what_is_discarded() {
    let (filler, ram) = filled(Numbering::default());
    assert_numbered(&ram);
    assert_eq!(filler.fills.load(Ordering::Relaxed), 32, "64 KiB at a time");

    ram.view().write_obj(7_u64, GuestAddress(5 * PAGE)).unwrap();
    ram.discard(ram.range()).unwrap();

    assert_numbered(&ram);
}

#[test]
fn a_filler_that_panics_costs_a_handler_and_not_the_touch() {
    let (_, ram) = filled(Numbering { panics: 3, ..Numbering::default() });

    assert_numbered(&ram);

    assert_eq!(ram.replaced_handlers(), 3);
    assert_eq!(ram.mm().unwrap().stats().of(FaultReason::FillFailed), 3);
}

/// Touches guest memory through the window, once.
#[cfg(debug_assertions)]
#[derive(Default)]
struct Touching(Mutex<Option<GuestMemoryView>>);

#[cfg(debug_assertions)]
impl Filler for Touching {
    fn name(&self) -> &'static str {
        "touching"
    }

    fn fill(&self, _: u64, into: &mut [u8]) -> io::Result<()> {
        let view = self.0.lock().unwrap().take();
        if let Some(view) = view {
            view.read_obj::<u64>(GuestAddress(M)).map_err(io::Error::other)?;
        }
        into.fill(5);
        Ok(())
    }
}

/// Were it let through, it would wait for itself until its deadline, and no fill would fail.
#[cfg(debug_assertions)]
#[test]
fn a_handler_that_touches_guest_memory_panics_and_does_not_wait_for_itself() {
    let filler = Arc::new(Touching::default());
    let service = ServiceConfig { deadline: Duration::from_secs(10), ..ServiceConfig::default() };
    let ram = ram(2, ManagedConfig { filler: Some(filler.clone()), service, ..ManagedConfig::default() });
    *filler.0.lock().unwrap() = Some(ram.view().clone());

    assert_filled(&ram, range(0, PAGE), 5);

    let faults = ram.mm().unwrap().stats();
    let [failed, late] = [FaultReason::FillFailed, FaultReason::FillLate].map(|reason| faults.of(reason));
    assert_eq!((failed, late, ram.replaced_handlers()), (1, 0, 1), "{faults:?}");
}

#[test]
fn a_filler_that_stalls_is_given_up_and_what_it_writes_in_the_end_is_thrown_away() {
    let (filler, ram) = filled(Numbering { stalls: 1, ..Numbering::default() });

    assert_numbered(&ram);
    assert_eq!(filler.stalled.load(Ordering::Relaxed), 0, "nobody waited for it");
    filler.enough.store(true, Ordering::Relaxed);
    while filler.stalled.load(Ordering::Relaxed) == 0 {
        thread::yield_now();
    }
    // Time for what its handler does with what it has written.
    thread::sleep(Duration::from_millis(100));

    assert_numbered(&ram);
    assert_eq!(ram.replaced_handlers(), 1);
    assert_eq!(ram.mm().unwrap().stats().of(FaultReason::FillLate), 1);
}

#[test]
fn a_write_without_permission_waits_until_there_is_one() {
    let ram = ram(2, ManagedConfig::default());
    ram.view().write_obj(7_u64, GuestAddress(0)).unwrap();
    let mm = ram.mm().unwrap();
    mm.modify(range(0, M), &VmaChange::Writable(false)).unwrap();
    assert_eq!(ram.view().read_obj::<u64>(GuestAddress(0)).unwrap(), 7);

    thread::scope(|scope| {
        let writer = scope.spawn(|| ram.view().write_obj(8_u64, GuestAddress(0)).unwrap());
        while mm.stats().of(FaultReason::Denied) == 0 {
            thread::yield_now();
        }
        assert!(!writer.is_finished());
        // Through the direct map: for ThreadSanitizer the write at the other address has begun.
        let mut bytes = [0; 8];
        mm.pool().read(mm.stretch().start(), 0, &mut bytes).unwrap();
        assert_eq!(u64::from_ne_bytes(bytes), 7);

        mm.modify(range(0, M), &VmaChange::Writable(true)).unwrap();
        // ThreadSanitizer does not see how the scope waits.
        writer.join().unwrap();
    });

    assert_eq!(ram.view().read_obj::<u64>(GuestAddress(0)).unwrap(), 8);
    assert_eq!(mm.vmas().snapshot().iter().count(), 1, "they merge again");
}

#[test]
fn writes_are_tracked_exactly() {
    let ram = ram(2, ManagedConfig::default());
    for page in 0..256_u64 {
        ram.view().write_obj(page, GuestAddress(page * PAGE)).unwrap();
    }
    let mm = ram.mm().unwrap();
    mm.modify(ram.range(), &VmaChange::DirtyTracked(true)).unwrap();
    let dirty = |clear| -> Vec<_> {
        mm.dirty_pages(ram.range(), clear).unwrap().iter().map(|gfn| gfn.get()).collect()
    };
    assert_eq!(dirty(true), [0; 0]);

    for page in [3, 200, 300] {
        ram.view().write_obj(7_u8, GuestAddress(page * PAGE)).unwrap();
    }
    ram.view().read_obj::<u64>(GuestAddress(400 * PAGE)).unwrap();

    assert_eq!(dirty(true), [3, 200, 300]);
    assert_eq!(dirty(true), [0; 0]);
    ram.view().write_obj(8_u8, GuestAddress(200 * PAGE)).unwrap();
    assert_eq!(dirty(false), [200]);
}

#[test]
fn what_is_pinned_is_not_discarded_and_keeps_its_content() {
    let ram = ram(2, ManagedConfig::default());
    ram.view().write_obj(7_u64, GuestAddress(PAGE)).unwrap();
    let mm = ram.mm().unwrap();
    let pin = mm.page_table().pin(range(PAGE, PAGE), true, mm.folios()).unwrap();

    let discarded = ram.discard(ram.range()).unwrap();

    assert_eq!(discarded.pinned_bytes, PAGE);
    assert_eq!(ram.view().read_obj::<u64>(GuestAddress(PAGE)).unwrap(), 7);
    drop(pin);
    assert_eq!(ram.discard(ram.range()).unwrap().pinned_bytes, 0);
    assert_eq!(ram.view().read_obj::<u64>(GuestAddress(PAGE)).unwrap(), 0);
}

#[test]
fn a_view_that_is_left_reads_and_writes_plain_memory_also_while_the_ram_goes() {
    for touched in [0, 2 * M, 4 * M] {
        let ram = ram(4, ManagedConfig { around: FaultAround::OFF, ..ManagedConfig::default() });
        if touched > 0 {
            fill(&ram, range(0, touched), 7);
        }
        let (view, mm) = (ram.view().clone(), Arc::downgrade(ram.mm().unwrap()));
        let gone = AtomicU64::new(0);
        thread::scope(|scope| {
            let toucher = scope.spawn(|| {
                let mut rounds = 0_u64;
                while gone.load(Ordering::Relaxed) == 0 || rounds < 4 {
                    rounds += 1;
                    for page in (0..4 * M).step_by(PAGE_BYTES) {
                        let address = GuestAddress(page + 8);
                        let found = view.read_obj::<u64>(address).unwrap();
                        let old = u64::from_ne_bytes([7; 8]);
                        assert!(found == 0 || found < rounds || page < touched && found == old, "{found:#x}");
                        view.write_obj(rounds, address).unwrap();
                    }
                }
            });
            thread::sleep(Duration::from_millis(5));
            drop(ram);
            assert!(mm.upgrade().is_none(), "the frames are free");
            gone.store(1, Ordering::Relaxed);
            toucher.join().unwrap();
        });
        view.write_obj(5_u64, GuestAddress(M)).unwrap();
        assert_eq!(view.read_obj::<u64>(GuestAddress(M)).unwrap(), 5);
    }
}
