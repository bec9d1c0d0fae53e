use std::io;

use super::window::Window;
use crate::host::inject::Operation;
use crate::host::userfaultfd::{Protection::Writable, RegisterError, StopEvent, UffdError};

/// The variant's name, and for `Raced` what was done.
fn meaning(errno: i32, done: i64) -> String {
    format!("{:?}", UffdError::of(io::Error::from_raw_os_error(errno), done))
}

#[test]
fn every_error_has_one_meaning() {
    assert_eq!(meaning(libc::EEXIST, -17), "Exists");
    assert_eq!(meaning(libc::EFAULT, -14), "NotPopulated");
    assert_eq!(meaning(libc::EAGAIN, 8192), "Raced { done: 8192 }");
    assert_eq!(meaning(libc::EAGAIN, -11), "Raced { done: 0 }");
    assert_eq!(meaning(libc::ENOENT, 0), "NotRegistered");
    assert_eq!(meaning(libc::ESRCH, 0), "Exiting");
    assert_eq!(meaning(libc::ENOMEM, 0), "NoMemory");
    assert!(meaning(libc::EINVAL, 0).starts_with("Other("));
}

#[test]
fn an_injected_failure_of_any_operation_reaches_its_caller_and_does_nothing() {
    type Call = fn(&Window) -> Result<(), UffdError>;
    let calls: [(Operation, Call); 4] = [
        (Operation::Continue, |window| window.faults.continue_(window.range(0..1), Writable)),
        (Operation::WriteProtect, |window| window.faults.write_protect(window.range(0..1))),
        (Operation::WriteProtect, |window| window.faults.write_unprotect(window.range(0..1))),
        (Operation::Poison, |window| window.faults.poison(window.range(1..2))),
    ];
    let Some(window) = Window::shmem(2) else { return };
    window.fill(0, 42);

    for (operation, call) in calls {
        for &errno in operation.errnos() {
            window.injector.fail_nth(operation, 1, errno);
            let failed = call(&window).unwrap_err();

            assert_eq!(format!("{failed:?}"), meaning(errno, 0), "{operation:?}");
        }
        if operation != Operation::Poison || window.faults.can_poison() {
            call(&window).unwrap();
        }
    }
}

#[test]
fn an_injected_failure_of_any_other_call_reaches_its_caller_and_does_nothing() {
    type Call = fn(&Window) -> io::Result<()>;
    let calls: [(Operation, Call); 4] = [
        (Operation::Unregister, |window| window.faults.unregister(&window.memory, window.bytes(0..1))),
        (Operation::Zap, |window| window.faults.zap(&window.memory, window.bytes(0..1))),
        (Operation::EventFd, |window| StopEvent::new(&window.injector).map(drop)),
        (Operation::Wake, |window| match window.faults.wake(window.range(0..1)) {
            Err(UffdError::Other(error)) => Err(error),
            other => other.map_err(io::Error::other),
        }),
    ];
    let Some(window) = Window::shmem(1) else { return };

    for (operation, call) in calls {
        for &errno in operation.errnos() {
            window.injector.fail_nth(operation, 1, errno);
            let failed = call(&window).unwrap_err();

            assert_eq!(failed.raw_os_error(), Some(errno), "{operation:?}");
        }
        call(&window).unwrap();
    }
}

#[test]
fn an_injected_failure_to_register_says_why() {
    let Some(window) = Window::shmem(1) else { return };
    let register = |errno| {
        window.injector.fail_nth(Operation::Register, 1, errno);
        window.faults.register(&window.memory, window.bytes(0..1)).unwrap_err()
    };

    assert!(matches!(register(libc::EBUSY), RegisterError::Busy));
    assert!(matches!(register(libc::ENOMEM), RegisterError::NoMemory));
    assert!(matches!(register(libc::EPERM), RegisterError::NotWritable));
    assert!(matches!(register(libc::EINVAL), RegisterError::Unsuitable(_)));
    assert!(matches!(register(libc::EIO), RegisterError::Other(_)));
}
