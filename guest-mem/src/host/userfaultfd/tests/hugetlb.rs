//! Needs huge pages: reserved under the lock of the host's settings, and skipped where that is refused.
#![cfg(feature = "testing")]

use super::window::{Window, join};
use crate::host::userfaultfd::{
    FaultKind,
    Protection::{Writable, WriteProtected},
    UffdError,
};
use crate::{HostSettings, HugePageSize};

const HUGE: u64 = 2 << 20;

/// A window of `pages` huge pages that are there, unless the test is skipped; the window is to be dropped first.
fn window(pages: u64) -> Option<(HostSettings, Window)> {
    match HostSettings::lock().unwrap().with_huge_pages(HugePageSize::Mb2, pages) {
        Ok(settings) => Some((settings, Window::hugetlb(pages)?)),
        Err(reason) => {
            eprintln!("skipped: {reason}");
            None
        }
    }
}

fn errno(result: Result<(), UffdError>) -> Option<i32> {
    match result {
        Err(UffdError::Other(error)) => error.raw_os_error(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_huge_page_of_the_file_is_mapped_by_one_continue() {
    let Some((_settings, window)) = window(2) else { return };
    window.fill(0, 1);
    window.fill(1, 2);

    window.threads(|threads| {
        let reader = window.read(threads, 0);
        assert_eq!(window.event().kind, FaultKind::Minor);
        window.resolve(window.range(0..2), Writable);
        assert_eq!(join(reader), 1);
    });

    assert_eq!(window.load(1), 2);
}

#[test]
fn continue_of_huge_pages_tells_how_far_it_came() {
    let Some((_settings, window)) = window(2) else { return };
    window.fill(0, 1);

    let raced = window.faults.continue_(window.range(0..2), Writable);
    let mapped = window.faults.continue_(window.range(0..1), Writable);
    let missing = window.faults.continue_(window.range(1..2), Writable);

    assert!(matches!(raced, Err(UffdError::Raced { done: HUGE })), "{raced:?}");
    assert!(matches!(mapped, Err(UffdError::Exists)), "{mapped:?}");
    assert!(matches!(missing, Err(UffdError::NotPopulated)), "{missing:?}");
}

#[test]
fn a_protected_huge_page_keeps_its_writer_waiting() {
    let Some((_settings, window)) = window(1) else { return };
    window.fill(0, 1);
    window.resolve(window.range(0..1), WriteProtected);

    window.threads(|threads| {
        let writer = window.write(threads, 0, 2);
        assert_eq!(window.event().kind, FaultKind::WriteProtected);
        window.unprotect(window.range(0..1));
        join(writer);
    });

    assert_eq!(window.filed(0), 2);
}

#[test]
fn a_part_of_a_huge_page_is_not_resolved_and_its_zap_does_nothing() {
    let Some((_settings, window)) = window(1) else { return };
    window.fill(0, 42);
    let part = mmu_notifier::AddressRange::new(window.range(0..1).start(), 4096).unwrap();

    assert_eq!(errno(window.faults.continue_(part, Writable)), Some(libc::EINVAL));
    window.resolve(window.range(0..1), Writable);
    assert_eq!(errno(window.faults.write_protect(part)), Some(libc::EINVAL));
    window.faults.zap(&window.memory, 0..4096).unwrap();

    assert_eq!(window.load(0), 42);
    assert!(window.is_quiet());
}

#[test]
fn a_zapped_huge_page_keeps_its_data() {
    let Some((_settings, window)) = window(1) else { return };
    window.fill(0, 1);
    window.resolve(window.range(0..1), Writable);
    window.store(0, 2);

    window.faults.zap(&window.memory, 0..HUGE).unwrap();

    window.threads(|threads| {
        let reader = window.read(threads, 0);
        assert_eq!(window.event().kind, FaultKind::Minor);
        window.resolve(window.range(0..1), Writable);
        assert_eq!(join(reader), 2);
    });
}
