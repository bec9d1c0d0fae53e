use super::window::{Window, join, sleeps};
use crate::host::userfaultfd::{
    FaultKind,
    Protection::{Writable, WriteProtected},
};

/// A window whose only page is mapped, writable, and holds 1.
fn mapped() -> Option<Window> {
    let window = Window::shmem(1)?;
    window.fill(0, 1);
    window.resolve(window.range(0..1), Writable);
    Some(window)
}

#[test]
fn a_write_to_a_protected_page_waits_for_the_protection_to_go_and_a_read_does_not() {
    let Some(window) = mapped() else { return };
    let page = window.range(0..1);

    window.faults.write_protect(page).unwrap();

    assert_eq!(window.load(0), 1);
    window.threads(|threads| {
        let writer = window.write(threads, 0, 2);
        assert_eq!(window.event().kind, FaultKind::WriteProtected);
        window.unprotect(page);
        join(writer);
    });
    assert_eq!(window.filed(0), 2);
}

#[test]
fn a_writer_that_is_let_through_sleeps_until_it_is_woken() {
    let Some(window) = mapped() else { return };
    let page = window.range(0..1);
    window.faults.write_protect(page).unwrap();

    window.threads(|threads| {
        let writer = window.write(threads, 0, 2);
        window.event();
        window.faults.write_unprotect(page).unwrap();
        assert!(sleeps(&writer));

        window.faults.wake(page).unwrap();

        join(writer);
    });
    assert_eq!(window.filed(0), 2);
}

#[test]
fn a_write_by_the_direct_map_passes_the_windows_protection() {
    let Some(window) = mapped() else { return };
    window.faults.write_protect(window.range(0..1)).unwrap();

    window.fill(0, 2);

    assert_eq!(window.load(0), 2);
    assert!(window.is_quiet());
}

#[test]
fn continue_maps_a_page_for_reading_only_when_asked_to() {
    let Some(window) = Window::shmem(1) else { return };
    let page = window.range(0..1);
    window.fill(0, 1);

    window.resolve(page, WriteProtected);

    assert_eq!(window.load(0), 1);
    window.threads(|threads| {
        let writer = window.write(threads, 0, 2);
        assert_eq!(window.event().kind, FaultKind::WriteProtected);
        window.unprotect(page);
        join(writer);
    });
}

#[test]
fn a_write_that_is_answered_by_a_protected_page_faults_twice() {
    let Some(window) = Window::shmem(1) else { return };
    let page = window.range(0..1);
    window.fill(0, 1);

    let kinds = window.threads(|threads| {
        let writer = window.write(threads, 0, 2);
        let first = window.event().kind;
        window.resolve(page, WriteProtected);
        let second = window.event().kind;
        window.unprotect(page);
        join(writer);
        [first, second]
    });

    assert_eq!(kinds, [FaultKind::Minor, FaultKind::WriteProtected]);
}

/// Asserts that a write faults although a MINOR fault of its page was resolved, and lets it through.
#[track_caller]
fn write_faults_after_a_protected_continue(window: &Window) {
    let page = window.range(0..1);
    window.threads(|threads| {
        let reader = window.read(threads, 0);
        assert_eq!(window.event().kind, FaultKind::Minor);
        window.resolve(page, WriteProtected);
        join(reader);

        let writer = window.write(threads, 0, 2);
        assert_eq!(window.event().kind, FaultKind::WriteProtected);
        window.unprotect(page);
        join(writer);
    });
}

/// Asserts that a write passes after a MINOR fault of its page was resolved.
#[track_caller]
fn write_passes_after_a_writable_continue(window: &Window) {
    window.threads(|threads| {
        let reader = window.read(threads, 0);
        assert_eq!(window.event().kind, FaultKind::Minor);
        window.resolve(window.range(0..1), Writable);
        join(reader);

        join(window.write(threads, 0, 2));
    });
    assert_eq!(window.filed(0), 2);
}

#[test]
fn a_zap_of_a_protected_page_leaves_a_protection_that_continue_keeps_only_when_asked_to() {
    for check in [write_faults_after_a_protected_continue, write_passes_after_a_writable_continue] {
        let Some(window) = mapped() else { return };
        window.faults.write_protect(window.range(0..1)).unwrap();
        window.faults.zap(&window.memory, window.bytes(0..1)).unwrap();

        check(&window);
    }
}

#[test]
fn a_page_without_an_entry_is_protected_until_continue_makes_it_writable() {
    for check in [write_faults_after_a_protected_continue, write_passes_after_a_writable_continue] {
        let Some(window) = Window::shmem(1) else { return };
        window.fill(0, 1);
        window.faults.write_protect(window.range(0..1)).unwrap();

        check(&window);
    }
}

#[test]
fn a_wp_event_may_be_answered_by_mapping_the_page_anew() {
    let Some(window) = mapped() else { return };
    let page = window.range(0..1);
    window.faults.write_protect(page).unwrap();

    window.threads(|threads| {
        let writer = window.write(threads, 0, 2);
        window.event();
        window.faults.zap(&window.memory, window.bytes(0..1)).unwrap();
        window.resolve(page, Writable);
        join(writer);
    });

    assert_eq!(window.filed(0), 2);
}
