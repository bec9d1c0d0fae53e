use std::error::Error;

use super::window::userfaultfd;
use crate::host::inject::{Injector, Operation};
use crate::host::userfaultfd::{OpenUserfaultfdError, Userfaultfd};

#[test]
fn a_refusal_names_both_ways_and_what_each_said() {
    let injector = Injector::armable();
    injector.fail_nth(Operation::Open, 1, libc::ENOENT);
    injector.fail_nth(Operation::Open, 2, libc::EPERM);

    let refused = Userfaultfd::for_guests(injector.clone()).unwrap_err();

    let message = refused.to_string();
    for part in [
        "/dev/userfaultfd, which said: No such file",
        "vm.unprivileged_userfaultfd",
        "which said: Operation not permitted",
    ] {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
    assert!(refused.source().is_some());
    assert_eq!(injector.calls(Operation::Open), 2, "a descriptor that sees no guest's faults was tried");
}

#[test]
fn the_system_call_serves_where_the_device_does_not() {
    let injector = Injector::armable();
    let Some(_) = userfaultfd(&injector) else { return };
    let opened = injector.calls(Operation::Open);
    injector.fail_nth(Operation::Open, 1, libc::EACCES);

    let Some(_) = userfaultfd(&injector) else { return };

    assert!(injector.calls(Operation::Open) > opened + 1);
}

#[test]
fn a_second_descriptor_that_is_refused_is_an_error() {
    let injector = Injector::armable();
    let Some(_) = userfaultfd(&injector) else { return };

    for (operation, nth, errno) in
        [(Operation::Handshake, 1, libc::EINVAL), (Operation::Handshake, 2, libc::EPERM)]
    {
        injector.fail_nth(operation, nth, errno);
        let failed = Userfaultfd::for_guests(injector.clone()).unwrap_err();

        assert!(
            matches!(&failed, OpenUserfaultfdError::Handshake(error) if error.raw_os_error() == Some(errno))
        );
    }
}

#[test]
fn a_kernel_that_lacks_features_is_told_by_their_names() {
    let lacks = OpenUserfaultfdError::lacking(1 << 9 | 1 << 12);

    let message = lacks.to_string();

    assert!(message.contains("lacks MINOR_HUGETLBFS, WP_HUGETLBFS_SHMEM:"), "{message}");
}
