use super::window::{Window, join, sleeps, userfaultfd};
use crate::host::inject::{Injector, Operation};
use crate::host::userfaultfd::{Event, FaultKind, Protection::Writable, RegisterError, StopEvent, UffdError};

#[test]
fn an_event_tells_where_and_what_is_in_the_way() {
    let Some(window) = Window::shmem(4) else { return };
    window.fill(2, 1);
    let offset = window.bytes(2..3).start + 0x918;

    window.threads(|threads| {
        let writer = threads.spawn(|| {
            let slice = window.memory.slice(offset, 8).unwrap();
            vm_memory::Bytes::store(&slice, 7_u64, 0, std::sync::atomic::Ordering::Relaxed).unwrap();
        });
        let event = window.event();
        window.resolve(window.range(2..3), Writable);
        join(writer);

        let address = window.memory.address() as u64 + offset;
        assert_eq!(event, Event { address, kind: FaultKind::Minor });
    });
}

#[test]
fn a_batch_takes_what_there_is_and_no_more_than_it_holds() {
    let Some(window) = Window::shmem(3) else { return };

    window.threads(|threads| {
        let readers = [0, 1, 2].map(|page| window.read(threads, page));
        let mut pages = Vec::new();
        while pages.len() < 3 {
            let mut batch = [Event::default(); 2];
            let events = window.faults.read_batch(&mut batch).unwrap();
            assert!(events.len() <= 2);
            pages.extend(events.iter().map(|event| (event.address - window.range(0..3).start()) / 4096));
        }
        (0..3).for_each(|page| window.fill(page, 42));
        window.resolve(window.range(0..3), Writable);
        assert_eq!(readers.map(join), [42; 3]);

        pages.sort_unstable();
        assert_eq!(pages, [0, 1, 2]);
        assert!(window.is_quiet());
    });
}

#[test]
fn whoever_is_woken_for_nothing_faults_again() {
    let Some(window) = Window::shmem(2) else { return };
    window.fill(0, 42);

    window.threads(|threads| {
        let reader = window.read(threads, 0);
        let first = window.event();
        window.faults.wake(window.range(1..2)).unwrap();
        assert!(window.is_quiet());

        for _ in 0..3 {
            window.faults.wake(window.range(0..2)).unwrap();
            assert_eq!(window.event(), first);
        }

        window.resolve(window.range(0..1), Writable);
        assert_eq!(join(reader), 42);
    });
}

#[test]
fn whoever_waits_in_a_window_that_is_unregistered_is_served_by_the_kernel() {
    let Some(window) = Window::shmem(1) else { return };

    window.threads(|threads| {
        let reader = window.read(threads, 0);
        window.event();
        window.faults.unregister(&window.memory, window.bytes(0..1)).unwrap();

        assert_eq!(join(reader), 0);
    });
}

#[test]
fn whoever_waits_where_another_mapping_takes_the_place_sleeps_until_woken() {
    let Some(window) = Window::shmem(1) else { return };
    window.fill(0, 42);
    let page = window.range(0..1);

    window.threads(|threads| {
        let reader = window.read(threads, 0);
        window.event();
        window.map_anew();
        let stale = window.faults.continue_(page, Writable);
        assert!(matches!(stale, Err(UffdError::NotRegistered)), "{stale:?}");
        assert!(sleeps(&reader));
        assert!(window.is_quiet());

        window.faults.wake(page).unwrap();

        assert_eq!(join(reader), 42);
    });
}

#[test]
fn memory_belongs_to_one_userfaultfd() {
    let Some(window) = Window::shmem(2) else { return };
    let Some(other) = userfaultfd(&Injector::none()) else { return };

    let taken = other.register(&window.memory, window.bytes(0..1));
    let not_its_own = other.unregister(&window.memory, window.bytes(0..1));

    assert!(matches!(taken, Err(RegisterError::Busy)), "{taken:?}");
    assert_eq!(not_its_own.unwrap_err().raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn only_bytes_of_the_mapping_are_registered_unregistered_and_zapped() {
    let Some(window) = Window::shmem(2) else { return };
    let backwards = std::ops::Range { start: 4096, end: 0 };

    for range in [0..3 * 4096, 4096..u64::MAX, 1..4096, backwards] {
        let registered = window.faults.register(&window.memory, range.clone());
        let unregistered = window.faults.unregister(&window.memory, range.clone());
        let zapped = window.faults.zap(&window.memory, range.clone());

        assert!(matches!(registered, Err(RegisterError::Unsuitable(_))), "{range:?}: {registered:?}");
        for result in [unregistered, zapped] {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EINVAL), "{range:?}");
        }
    }
}

#[test]
fn a_wait_ends_at_events_and_at_a_stop() {
    let Some(window) = Window::shmem(1) else { return };
    let stop = StopEvent::new(&Injector::none()).unwrap();
    window.fill(0, 42);

    window.threads(|threads| {
        let waiter = threads.spawn(|| window.faults.wait(&stop).unwrap());
        assert!(sleeps(&waiter));
        let reader = window.read(threads, 0);
        assert!(!join(waiter));

        stop.ask();
        assert!(window.faults.wait(&stop).unwrap());
        window.event();
        stop.ask();
        assert!(window.faults.wait(&stop).unwrap());

        window.resolve(window.range(0..1), Writable);
        assert_eq!(join(reader), 42);
    });
}

#[test]
fn a_stop_wakes_all_who_wait() {
    let Some(window) = Window::shmem(1) else { return };
    let stop = StopEvent::new(&Injector::none()).unwrap();

    window.threads(|threads| {
        let waiters = [(); 2].map(|()| threads.spawn(|| window.faults.wait(&stop).unwrap()));
        stop.ask();

        assert_eq!(waiters.map(join), [true; 2]);
    });
}

#[test]
fn an_interruption_of_a_read_or_a_wait_is_no_error() {
    let Some(window) = Window::shmem(1) else { return };
    let stop = StopEvent::new(&Injector::none()).unwrap();
    window.injector.fail_nth(Operation::Poll, 1, libc::EINTR);
    window.injector.fail_nth(Operation::ReadEvents, 1, libc::EINTR);
    window.injector.fail_nth(Operation::ReadEvents, 2, libc::EAGAIN);

    assert!(!window.faults.wait(&stop).unwrap());
    assert!(window.is_quiet());
    assert!(window.is_quiet());

    window.injector.fail_nth(Operation::Poll, 1, libc::ENOMEM);
    assert_eq!(window.faults.wait(&stop).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
}
