//! Machines as these tests want them.

use guest_mem::{Backing, ByteSize};
use vmm::{
    driver::{Access, Command, Op, RAM_BASE},
    interrupt::Interrupt,
    kvm::Kvm,
    machine::{Done, Machine, MachineConfig},
    measure::Plan,
};

pub(crate) const M: u64 = 1 << 20;
pub(crate) const G: u64 = 1 << 30;
pub(crate) const PAGE: u64 = 4096;
const WORD: u64 = 8;

/// A machine with RAM of `bytes` of `backing`, mapped by the guest in pages of 2 MiB.
#[track_caller]
pub(crate) fn machine(backing: Backing, bytes: u64, vcpus: u32) -> Machine {
    Machine::new(&Kvm::open().unwrap(), &config(backing, bytes, vcpus), &Interrupt::new().unwrap()).unwrap()
}

pub(crate) fn config(backing: Backing, bytes: u64, vcpus: u32) -> MachineConfig {
    MachineConfig { vcpus, ..MachineConfig::new("test", ByteSize::new(bytes).unwrap(), backing) }
}

/// A measurement of `bytes`: sequential writes by one vCPU.
pub(crate) fn plan(bytes: u64) -> Plan {
    Plan::new(ByteSize::new(bytes).unwrap())
}

/// Fills, or verifies, every word of the `bytes` that start `offset` into RAM.
pub(crate) fn words(op: Op, offset: u64, bytes: u64, seed: u64) -> Command {
    Command { op, base: RAM_BASE + offset, count: bytes / WORD, stride: WORD, seed, ..Command::default() }
}

/// Touches one word in each page of the `bytes` that start `offset` into RAM.
pub(crate) fn touches(access: Access, offset: u64, bytes: u64) -> Command {
    Command {
        op: Op::Touch,
        base: RAM_BASE + offset,
        count: bytes / PAGE,
        stride: PAGE,
        passes: 1,
        access,
        ..Command::default()
    }
}

/// Runs one command on the first vCPU.
#[track_caller]
pub(crate) fn run(machine: &mut Machine, command: Command) -> Done {
    machine.run(&[command]).unwrap()[0]
}
