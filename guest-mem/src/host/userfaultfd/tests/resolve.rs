use super::window::{Window, join, sleeps};
use crate::host::mapping::Advice;
use crate::host::memfd::punch_hole;
use crate::host::userfaultfd::{FaultKind, Protection::Writable, UffdError};

#[test]
fn a_page_of_the_file_is_mapped_by_continue_and_its_reader_goes_on() {
    let Some(window) = Window::shmem(4) else { return };
    window.fill(1, 42);

    let read = window.threads(|threads| {
        let reader = window.read(threads, 1);
        let event = window.event();
        assert_eq!((event.kind, event.address), (FaultKind::Minor, window.range(1..2).start()));
        window.resolve(window.range(1..2), Writable);
        join(reader)
    });

    assert_eq!(read, 42);
}

#[test]
fn one_continue_maps_the_pages_around_too() {
    let Some(window) = Window::shmem(8) else { return };
    (0..8).for_each(|page| window.fill(page, page));

    window.resolve(window.range(0..8), Writable);

    assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(|page| window.load(page)), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(window.is_quiet());
}

#[test]
fn a_zapped_page_raises_a_minor_event_and_keeps_its_data() {
    let Some(window) = Window::shmem(2) else { return };
    window.fill(0, 1);
    window.resolve(window.range(0..1), Writable);
    window.store(0, 2);

    window.faults.zap(&window.memory, window.bytes(0..1)).unwrap();

    let read = window.threads(|threads| {
        let reader = window.read(threads, 0);
        assert_eq!(window.event().kind, FaultKind::Minor);
        window.resolve(window.range(0..1), Writable);
        join(reader)
    });
    assert_eq!((read, window.filed(0)), (2, 2));
}

#[test]
fn continue_wakes_nobody_and_fails_where_the_page_is_mapped() {
    let Some(window) = Window::shmem(1) else { return };
    window.fill(0, 42);

    window.threads(|threads| {
        let reader = window.read(threads, 0);
        window.event();
        window.faults.continue_(window.range(0..1), Writable).unwrap();
        let again = window.faults.continue_(window.range(0..1), Writable);
        assert!(matches!(again, Err(UffdError::Exists)), "{again:?}");
        assert!(sleeps(&reader));

        window.faults.wake(window.range(0..1)).unwrap();

        assert_eq!(join(reader), 42);
    });
}

#[test]
fn continue_fails_until_the_file_has_the_page() {
    let Some(window) = Window::shmem(1) else { return };

    window.threads(|threads| {
        let reader = window.read(threads, 0);
        assert_eq!(window.event().kind, FaultKind::Missing);
        let early = window.faults.continue_(window.range(0..1), Writable);
        assert!(matches!(early, Err(UffdError::NotPopulated)), "{early:?}");
        assert!(sleeps(&reader));

        window.fill(0, 42);
        window.resolve(window.range(0..1), Writable);

        assert_eq!(join(reader), 42);
    });
}

#[test]
fn continue_up_to_a_hole_tells_how_far_it_came() {
    let Some(window) = Window::shmem(8) else { return };
    (0..3).for_each(|page| window.fill(page, page + 10));

    window.threads(|threads| {
        let mapped = window.read(threads, 2);
        window.event();
        let missing = window.read(threads, 3);
        window.event();
        let raced = window.faults.continue_(window.range(0..8), Writable);
        assert!(matches!(raced, Err(UffdError::Raced { done: 0x3000 })), "{raced:?}");
        window.faults.wake(window.range(0..3)).unwrap();
        assert_eq!(join(mapped), 12);
        assert!(sleeps(&missing));

        let rest = window.faults.continue_(window.range(3..8), Writable);
        assert!(matches!(rest, Err(UffdError::NotPopulated)), "{rest:?}");
    });
}

#[test]
fn continue_up_to_a_mapped_page_tells_how_far_it_came() {
    let Some(window) = Window::shmem(4) else { return };
    (0..4).for_each(|page| window.fill(page, page));
    window.resolve(window.range(2..3), Writable);

    let raced = window.faults.continue_(window.range(0..4), Writable);
    let rest = window.faults.continue_(window.range(2..4), Writable);
    let last = window.faults.continue_(window.range(3..4), Writable);

    assert!(matches!(raced, Err(UffdError::Raced { done: 0x2000 })), "{raced:?}");
    assert!(matches!(rest, Err(UffdError::Exists)), "{rest:?}");
    last.unwrap();
}

#[test]
fn nothing_is_resolved_where_nothing_is_registered() {
    let Some(window) = Window::shmem(4) else { return };
    (0..4).for_each(|page| window.fill(page, page));
    window.faults.unregister(&window.memory, window.bytes(0..2)).unwrap();
    let page = window.range(0..1);

    let results = [
        window.faults.continue_(page, Writable),
        window.faults.write_protect(page),
        window.faults.write_unprotect(page),
        window.faults.poison(page),
    ];

    for result in results {
        assert!(matches!(result, Err(UffdError::NotRegistered)), "{result:?}");
    }
    window.faults.wake(page).unwrap();
}

#[test]
fn a_page_that_is_punched_out_is_missing_next() {
    let Some(window) = Window::shmem(1) else { return };
    window.fill(0, 42);
    window.resolve(window.range(0..1), Writable);

    punch_hole(&window.file, &window.bytes(0..1)).unwrap();

    window.threads(|threads| {
        let reader = window.read(threads, 0);
        assert_eq!(window.event().kind, FaultKind::Missing);
        window.fill(0, 7);
        window.resolve(window.range(0..1), Writable);
        assert_eq!(join(reader), 7);
    });
}

#[test]
fn a_poisoned_page_is_lost_until_it_is_zapped() {
    let Some(window) = Window::shmem(2) else { return };
    if !window.faults.can_poison() {
        eprintln!("skipped: this kernel's userfaultfd cannot poison");
        return;
    }
    window.fill(0, 42);
    let read = || window.memory.advise(window.bytes(0..1), Advice::PopulateRead);

    window.faults.poison(window.range(0..1)).unwrap();
    assert_eq!(read().unwrap_err().raw_os_error(), Some(libc::EHWPOISON));

    window.faults.zap(&window.memory, window.bytes(0..1)).unwrap();
    window.resolve(window.range(0..1), Writable);
    read().unwrap();
    assert_eq!(window.load(0), 42);
}

#[test]
fn a_mapped_page_is_not_poisoned_and_a_poisoned_one_is_mapped_by_continue() {
    let Some(window) = Window::shmem(2) else { return };
    if !window.faults.can_poison() {
        eprintln!("skipped: this kernel's userfaultfd cannot poison");
        return;
    }
    (0..2).for_each(|page| window.fill(page, 42));
    window.resolve(window.range(0..1), Writable);
    window.faults.poison(window.range(1..2)).unwrap();

    let mapped = window.faults.poison(window.range(0..1));
    window.resolve(window.range(1..2), Writable);

    assert!(matches!(mapped, Err(UffdError::Exists)), "{mapped:?}");
    assert_eq!(window.load(1), 42);
}
