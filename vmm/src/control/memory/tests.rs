use guest_mem::{Backing, ByteSize};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory::MemoryConfig;

const MIB: u64 = 1 << 20;
const G: u64 = 1 << 30;

fn control(bytes: u64, backing: Backing) -> MemoryControl {
    let config = MemoryConfig::new(ByteSize::new(bytes).unwrap(), backing);
    let memory = Memory::create(&config, None, |_| unreachable!("no guest_memfd is asked for")).unwrap();
    MemoryControl::new(Arc::new(memory))
}

fn touch(control: &MemoryControl, address: u64) {
    control.memory.view().write_obj(7_u8, GuestAddress(address)).unwrap();
}

fn range(start: u64, len: u64) -> AddressRange {
    AddressRange::new(start, len).unwrap()
}

#[test]
fn ram_that_the_kernel_resolves_is_reported_part_by_part() {
    let mut control = control(4 * G, Backing::Shmem);
    touch(&control, 0);
    touch(&control, 4 * G);

    let report = control.report().unwrap();

    assert_eq!((report.backing.as_str(), report.resolved_by), ("shmem", "kernel"));
    assert_eq!((report.guest_bytes, report.resident_bytes), (4 * G, Some(8192)));
    let vmas: Vec<_> = report.vmas.iter().map(|vma| (vma.start, vma.length, vma.base_bytes)).collect();
    assert_eq!(vmas, [(0, 3 * G, 4096), (4 * G, G, 4096)]);
    assert_eq!((report.pss_bytes, report.fault_latency), (None, None));
    assert!(report.faults.is_empty());
}

#[test]
fn a_discard_gives_the_pages_back() {
    let mut control = control(16 * MIB, Backing::Shmem);
    touch(&control, 0);

    let discarded = control.discard(range(0, MIB)).unwrap();

    assert_eq!(discarded, Discarded { freed_bytes: MIB, ..Discarded::default() });
    assert_eq!(control.report().unwrap().resident_bytes, Some(0));
    let beyond = control.discard(range(15 * MIB, 2 * MIB));
    assert!(matches!(beyond, Err(OperationError::Refused(_))), "{beyond:?}");
}

#[test]
fn only_managed_ram_has_a_policy() {
    let control = control(16 * MIB, Backing::Anonymous);
    let policy = MemoryPolicy { mergeable: Some(true), ..MemoryPolicy::default() };
    let refused = control.set_policy(&policy).unwrap_err();
    assert!(matches!(refused, OperationError::Unsupported(_)), "{refused:?}");
    assert!(refused.to_string().contains("anonymous"), "{refused}");
}

#[test]
fn a_policy_is_for_ram() {
    let control = control(16 * MIB, Backing::Anonymous);
    let beyond = MemoryRange { start: 16 * MIB - 4096, length: 8192 };
    let policy = MemoryPolicy { mergeable: Some(true), range: Some(beyond), ..MemoryPolicy::default() };

    let refused = control.set_policy(&policy).unwrap_err();

    assert!(matches!(refused, OperationError::Refused(_)), "{refused:?}");
}
