//! Invalidations and reads allocate nothing.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]
#![expect(unsafe_code, reason = "an allocator that counts is a `GlobalAlloc`")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::Arc,
    time::Duration,
};

use mmu_notifier::{AddressRange, Event, Invalidation, PAGE_SIZE, Subscriptions, testing::Slow};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator; counts what each thread asks of it.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: passes everything on to `System`, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same, and the pointer is from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn page(page: u64) -> AddressRange {
    AddressRange::new(page * PAGE_SIZE, PAGE_SIZE).unwrap()
}

fn quiet() -> Arc<Slow> {
    Arc::new(Slow::new("quiet", Duration::ZERO))
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

#[test]
fn start_and_end_allocate_nothing() {
    let subscriptions = Subscriptions::new();
    let invalidate = || {
        let invalidation = Invalidation::new(page(7), Event::Unmap);
        drop(subscriptions.invalidate_range_start(subscriptions.exempt(), invalidation));
        drop(subscriptions.invalidate_range_start_nonblock(subscriptions.exempt(), invalidation));
    };
    let without_subscribers = allocations(invalidate);
    let kept: Vec<_> = (0..64).map(|n| subscriptions.insert(page(n), quiet()).unwrap()).collect();
    subscriptions.register(quiet()).unwrap();

    let with_subscribers = allocations(invalidate);

    assert_eq!((without_subscribers, with_subscribers), (0, 0));
    drop(kept);
}

#[test]
fn a_read_allocates_nothing() {
    let subscriptions = Subscriptions::new();
    let subscription = subscriptions.insert(page(0), quiet()).unwrap();

    let allocations = allocations(|| {
        let sequence = subscription.read_begin();
        assert!(!subscription.read_retry(sequence));
    });

    assert_eq!(allocations, 0);
}
