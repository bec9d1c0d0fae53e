//! The capabilities of KVM that bear on guest memory, by their names in the kernel's interface.

use super::Kvm;

/// One KVM_CAP and what KVM_CHECK_EXTENSION said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// The name without its `KVM_CAP_` prefix.
    pub name: &'static str,
    /// Zero where the capability is absent; else one, a limit or a set of flags.
    pub value: u32,
}

/// Numbers from the kernel's `include/uapi/linux/kvm.h`; kvm-bindings does not have the newest yet.
const MEMORY_CAPABILITIES: [(&str, u32); 27] = [
    ("USER_MEMORY", 3),
    ("NR_VCPUS", 9),
    ("NR_MEMSLOTS", 10),
    ("MAX_VCPUS", 66),
    ("SYNC_MMU", 16),
    ("ASYNC_PF", 59),
    ("ASYNC_PF_INT", 183),
    ("READONLY_MEM", 81),
    ("IRQCHIP", 0),
    ("SPLIT_IRQCHIP", 121),
    ("PIT2", 33),
    ("IRQFD", 32),
    ("IOEVENTFD", 36),
    ("IMMEDIATE_EXIT", 136),
    ("DIRTY_LOG_RING", 192),
    ("DIRTY_LOG_RING_ACQ_REL", 223),
    ("DIRTY_LOG_RING_WITH_BITMAP", 225),
    ("MANUAL_DIRTY_LOG_PROTECT2", 168),
    ("BINARY_STATS_FD", 203),
    ("VM_DISABLE_NX_HUGE_PAGES", 220),
    ("EXIT_ON_EMULATION_FAILURE", 204),
    ("USER_MEMORY2", 231),
    ("MEMORY_FAULT_INFO", 232),
    ("MEMORY_ATTRIBUTES", 233),
    ("GUEST_MEMFD", super::vm::CAP_GUEST_MEMFD),
    ("PRE_FAULT_MEMORY", 236),
    ("GUEST_MEMFD_FLAGS", super::vm::CAP_GUEST_MEMFD_FLAGS),
];

/// Asks KVM for every capability that bears on guest memory, in the kernel's words.
#[must_use]
pub fn capabilities(kvm: &Kvm) -> Vec<Capability> {
    MEMORY_CAPABILITIES
        .into_iter()
        .map(|(name, number)| Capability { name, value: kvm.check_extension(number) })
        .collect()
}
