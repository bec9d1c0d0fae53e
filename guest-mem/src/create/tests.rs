use std::fs;
use std::path::Path;
use std::process::Command;

use vm_memory::GuestAddress;

use super::*;
use crate::UnavailableReason;
use crate::testing::{config, maps_with};

#[track_caller]
fn refusal(config: GuestRamConfig) -> CreateRamError {
    GuestRam::create(config).unwrap_err()
}

#[track_caller]
fn file_refusal(path: &Path) -> BackingFileError {
    match refusal(config("file", Backing::File(path.into()), "1M")) {
        CreateRamError::File(error) => error,
        other => panic!("{} gave {other:?}", path.display()),
    }
}

#[test]
fn a_file_must_be_regular_and_long_enough() {
    let directory = tempfile::tempdir().unwrap();
    let short = directory.path().join("short");
    fs::write(&short, [0; 5000]).unwrap();
    let fifo = directory.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());

    let error = file_refusal(&short);
    assert!(matches!(error, BackingFileError::TooShort { len: 5000, .. }), "{error:?}");
    let error = file_refusal(&directory.path().join("none"));
    assert!(matches!(error, BackingFileError::Missing { .. }), "{error:?}");
    let error = file_refusal(directory.path());
    assert!(matches!(error, BackingFileError::Directory { .. }), "{error:?}");
    let error = file_refusal(&fifo);
    assert!(matches!(error, BackingFileError::NotRegular { kind: "FIFO", .. }), "{error:?}");
    let error = file_refusal(Path::new("/dev/zero"));
    assert!(matches!(error, BackingFileError::NotRegular { .. }), "{error:?}");
    let error = file_refusal(&short.join("below"));
    assert!(matches!(error, BackingFileError::Open { .. }), "{error:?}");
}

#[test]
fn every_refusal_of_a_file_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none");
    let message = file_refusal(&path).to_string();
    assert!(message.contains(path.to_str().unwrap()), "{message}");
}

#[test]
fn the_size_is_a_multiple_of_the_page() {
    let error = refusal(config("odd", Backing::Anonymous, "5000"));
    assert!(error.to_string().contains("use 4K or 8K"), "{error}");
    let CreateRamError::Unavailable(unavailable) = error else { panic!("{error:?}") };
    assert!(matches!(unavailable.reason, UnavailableReason::UnalignedSize { page: 4096, .. }));
}

#[test]
fn the_guest_range_is_aligned_and_does_not_wrap() {
    for (base, expected) in [
        (1, RangeError::UnalignedStart { start: 1 }),
        (u64::MAX - 4095, RangeError::Wraps { start: u64::MAX - 4095, len: 1 << 20 }),
    ] {
        let config =
            GuestRamConfig { guest_base: GuestAddress(base), ..config("range", Backing::Anonymous, "1M") };
        let error = refusal(config);
        assert!(matches!(error, CreateRamError::GuestRange(found) if found == expected), "{error:?}");
    }
}

#[test]
fn a_size_beyond_the_address_space_is_its_own_error() {
    for backing in [Backing::Anonymous, Backing::AnonymousThp] {
        for size in ["200T", "8388608T"] {
            let error = refusal(config("large", backing.clone(), size));
            assert!(matches!(error, CreateRamError::NoAddressSpace { .. }), "{size}: {error:?}");
        }
    }
}

#[test]
fn more_than_the_machines_memory_cannot_be_populated() {
    let size = (4 * memory_and_swap().unwrap()).next_multiple_of(4096).to_string();
    let error = refusal(GuestRamConfig {
        prefault: Some(Prefault { threads: NonZeroUsize::MIN }),
        ..config("beyond", Backing::Shmem, &size)
    });
    assert!(matches!(error, CreateRamError::PrefaultBeyondMemory { .. }), "{error:?}");
}

#[test]
fn a_guest_memfd_comes_exactly_with_its_backing() {
    let error = refusal(config("gmem", Backing::GuestMemfd, "1M"));
    assert!(matches!(error, CreateRamError::GuestMemfdMissing), "{error:?}");

    let memfd = host::memfd(c"stand-in", 4096, None).unwrap();
    let error = refusal(GuestRamConfig {
        guest_memfd: Some(memfd.into()),
        ..config("gmem", Backing::GuestMemfd, "1M")
    });
    assert!(matches!(error, CreateRamError::GuestMemfdTooShort { len: 4096, .. }), "{error:?}");

    let memfd = host::memfd(c"stand-in", 1 << 20, None).unwrap();
    let error =
        refusal(GuestRamConfig { guest_memfd: Some(memfd.into()), ..config("gmem", Backing::Shmem, "1M") });
    assert!(matches!(error, CreateRamError::GuestMemfdUnexpected { .. }), "{error:?}");
}

#[test]
fn a_node_that_does_not_exist_is_its_own_error() {
    let on_node = |node, backing| GuestRamConfig { numa_node: Some(node), ..config("node", backing, "1M") };

    let error = refusal(on_node(4095, Backing::Anonymous));
    let absent = matches!(
        error,
        CreateRamError::Numa(NumaError::NoSuchNode { node: 4095, .. } | NumaError::Unsupported)
    );
    assert!(absent, "{error:?}");

    let error = refusal(on_node(0, Backing::GuestMemfd));
    assert!(matches!(error, CreateRamError::Numa(NumaError::GuestMemfd)), "{error:?}");
}

/// Others may take the pages between the check and the reservation.
#[test]
fn a_refused_reservation_is_told_as_the_pool_is_then() {
    let no_memory = MapError::Refused(io::Error::from_raw_os_error(libc::ENOMEM));

    // No pool has so many.
    let error = map_failure(&Backing::SharedHugetlb2mb, "1024T".parse().unwrap(), no_memory);

    assert!(matches!(error, CreateRamError::Unavailable(_)), "{error:?}");
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    let error = refusal(GuestRamConfig {
        prefault: Some(Prefault { threads: NonZeroUsize::MIN }),
        interrupt: Some(Arc::new(AtomicBool::new(true))),
        ..config("interrupted", Backing::Shmem, "4M")
    });

    assert!(matches!(error, CreateRamError::Interrupted), "{error:?}");
    assert_eq!(maps_with("underlay:interrupted:"), [""; 0]);
}

#[test]
fn huge_pages_on_one_of_several_nodes_are_populated_unasked() {
    let one = Some(Prefault { threads: NonZeroUsize::MIN });
    let needed = |backing: Backing, nodes| needed_prefault(&backing, nodes);
    assert_eq!(needed(Backing::SharedHugetlb2mb, Some(2)), one);
    assert_eq!(needed(Backing::SharedHugetlb2mb, Some(1)), None);
    assert_eq!(needed(Backing::SharedHugetlb2mb, None), None);
    assert_eq!(needed(Backing::Anonymous, Some(2)), None);
}
