use super::*;
use crate::host_files::tests::FakeHost;
use crate::huge_pages::tests::{write_node_pool, write_pool};

const SIZED_THP: &str = "sys/kernel/mm/transparent_hugepage/hugepages-2048kB";

#[track_caller]
fn size(text: &str) -> ByteSize {
    text.parse().unwrap()
}

#[track_caller]
fn refusal(host: &FakeHost, backing: &Backing, bytes: &str, node: Option<u32>) -> Unavailable {
    backing.check_host_in(host.files(), size(bytes), node).unwrap_err()
}

fn host_with_memory() -> FakeHost {
    FakeHost::with(&[("proc/meminfo", "MemTotal:       1048576 kB\n")])
}

#[test]
fn an_odd_size_names_the_sizes_around_it() {
    let host = FakeHost::with(&[]);

    let error = refusal(&host, &Backing::SharedHugetlb2mb, "63M", None);

    assert!(matches!(error.reason, UnavailableReason::UnalignedSize { page: 0x20_0000, .. }));
    assert_eq!(error.enable.as_deref(), Some("use 62M or 64M"));
}

#[test]
fn a_size_below_one_page_names_one_page() {
    let host = FakeHost::with(&[]);
    let error = refusal(&host, &Backing::Anonymous, "100", None);
    assert_eq!(error.enable.as_deref(), Some("use 4K"));
}

#[test]
fn thp_that_is_never_given_comes_with_the_command() {
    let host = FakeHost::with(&[(&format!("{THP}/enabled"), "always madvise [never]\n")]);

    let error = refusal(&host, &Backing::AnonymousThp, "4M", None);

    let command = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
    assert_eq!(error.enable.as_deref(), Some(command));
    assert!(error.to_string().contains("says never"), "{error}");
}

#[test]
fn the_setting_of_the_size_decides_unless_it_inherits() {
    let host = FakeHost::with(&[(&format!("{THP}/enabled"), "always madvise [never]\n")]);
    let check = || Backing::AnonymousThp.check_host_in(host.files(), size("4M"), None);

    host.write(&format!("{SIZED_THP}/enabled"), "always inherit [madvise] never\n");
    assert!(check().is_ok());

    host.write(&format!("{SIZED_THP}/enabled"), "always [inherit] madvise never\n");
    assert!(check().is_err());

    host.write(&format!("{THP}/enabled"), "[always] madvise never\n");
    assert!(check().is_ok());

    host.write(&format!("{SIZED_THP}/enabled"), "always inherit madvise [never]\n");
    let command = format!("echo madvise > /{SIZED_THP}/enabled");
    assert_eq!(check().unwrap_err().enable, Some(command));
}

#[test]
fn shmem_that_is_denied_huge_pages_comes_with_the_command() {
    let host = FakeHost::with(&[]);
    for setting in ["[never] deny", "never [deny]"] {
        host.write(&format!("{THP}/shmem_enabled"), setting);

        let error = refusal(&host, &Backing::ShmemThp, "4M", None);

        let command = "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled";
        assert_eq!(error.enable.as_deref(), Some(command));
    }
}

#[test]
fn a_kernel_without_thp_says_so() {
    let host = FakeHost::with(&[]);
    let error = refusal(&host, &Backing::AnonymousThp, "4M", None);
    assert!(matches!(error.reason, UnavailableReason::NoThp { .. }), "{error}");
}

#[test]
fn too_few_huge_pages_come_with_the_numbers_and_the_command() {
    let host = host_with_memory();
    write_pool(&host, [10, 7, 3, 0, 0]);

    let error = refusal(&host, &Backing::AnonymousHugetlb2mb, "64M", None);

    let command = "echo 38 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    assert_eq!(error.enable.as_deref(), Some(command));
    let message = error.to_string();
    assert!(message.contains("32 of 2M are needed and 4 can be had"), "{message}");
}

#[test]
fn what_overcommit_allows_counts() {
    let host = host_with_memory();
    write_pool(&host, [0, 0, 0, 0, 32]);
    let check = |bytes| Backing::SharedHugetlb2mb.check_host_in(host.files(), size(bytes), None);

    assert!(check("64M").is_ok());
    assert!(check("66M").is_err());
}

#[test]
fn a_bound_node_needs_the_pages_itself() {
    let host = host_with_memory();
    write_pool(&host, [8, 8, 0, 0, 0]);
    write_node_pool(&host, [4, 3]);

    let error = refusal(&host, &Backing::SharedHugetlb2mb, "8M", Some(1));

    assert!(error.to_string().contains("on NUMA node 1"), "{error}");
    let command = "echo 5 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages";
    assert_eq!(error.enable.as_deref(), Some(command));
}

#[test]
fn huge_pages_beyond_the_machines_memory_cannot_be_reserved_by_any_command() {
    let host = host_with_memory();
    write_pool(&host, [0; 5]);

    let error = refusal(&host, &Backing::AnonymousHugetlb2mb, "2G", None);

    assert!(matches!(error.reason, UnavailableReason::LargerThanRam { .. }), "{error}");
    assert_eq!(error.enable, None);
}

#[test]
fn a_huge_page_size_that_the_cpu_lacks_is_named() {
    let host = host_with_memory();
    let error = refusal(&host, &Backing::SharedHugetlb1gb, "1G", None);
    assert!(matches!(error.reason, UnavailableReason::NoSuchHugePages(HugePageSize::Gb1)));
}
