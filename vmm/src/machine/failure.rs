//! What can end a run, told so that the reader knows where the guest was and what it was doing.

use std::{fmt, io};

use super::vcpu_thread::PinError;
use crate::{
    driver::{Command, Op},
    kvm::{Exit, Registers, StatsError, VcpuError},
};

/// Why a command did not end at the doorbell.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The user asked us to stop.
    #[error("interrupted")]
    Interrupted,
    /// The guest got into a state that it does not come out of.
    #[error("{0}")]
    Guest(Box<GuestFailure>),
    /// KVM_RUN failed.
    #[error("vCPU {vcpu} could not run")]
    Kvm {
        /// The vCPU's number.
        vcpu: u32,
        /// What failed.
        #[source]
        source: VcpuError,
    },
    /// KVM's statistics could not be read.
    #[error(transparent)]
    Stats(#[from] StatsError),
    /// The mailbox could not be reached.
    #[error("cannot reach a mailbox in the guest's memory")]
    Mailbox(#[source] vm_memory::GuestMemoryError),
    /// A thread could not be pinned.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The thread of a vCPU has ended.
    #[error("the thread of vCPU {vcpu} has ended")]
    ThreadGone {
        /// The vCPU's number.
        vcpu: u32,
    },
    /// The event loop failed.
    #[error("the control loop failed")]
    Control(#[source] io::Error),
}

/// Where a guest stopped, and at what.
#[derive(Clone, Copy, Debug)]
pub struct GuestFailure {
    /// The vCPU's number.
    pub vcpu: u32,
    /// Why KVM_RUN came back.
    pub exit: Exit,
    /// What the guest had been told to do.
    pub command: Command,
    /// Where it was.
    pub registers: Registers,
}

impl fmt::Display for GuestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vcpu, exit, command, registers } = self;
        let general = &registers.general;
        write!(f, "vCPU {vcpu} stopped: {exit}")?;
        let doing = match command.op {
            Op::Hello => "saying hello",
            Op::Touch => "touching",
            Op::Fill => "filling",
            Op::Verify => "verifying",
        };
        // The guest's own registers: see the table at the top of fault_driver.s.
        write!(
            f,
            "; it was {doing} word {done} of {count} from {base:#x} on, at {at:#x}\n\
             rip {rip:#018x} rflags {rflags:#x} cr2 {cr2:#018x} cr3 {cr3:#x}\n\
             rax {rax:#018x} rbx {rbx:#018x} rcx {rcx:#018x} rdx {rdx:#018x}\n\
             rsi {at:#018x} rdi {rdi:#018x} rbp {rbp:#018x} rsp {rsp:#018x}\n\
             r8  {base8:#018x} r9  {r9:#018x} r10 {r10:#018x} r11 {r11:#018x}\n\
             r12 {done:#018x} r13 {r13:#018x} r14 {r14:#018x} r15 {r15:#018x}",
            done = general.r12,
            count = command.count.saturating_mul(command.passes.max(1)),
            base = command.base,
            at = general.rsi,
            rip = general.rip,
            rflags = general.rflags,
            cr2 = registers.cr2,
            cr3 = registers.cr3,
            rax = general.rax,
            rbx = general.rbx,
            rcx = general.rcx,
            rdx = general.rdx,
            rdi = general.rdi,
            rbp = general.rbp,
            rsp = general.rsp,
            base8 = general.r8,
            r9 = general.r9,
            r10 = general.r10,
            r11 = general.r11,
            r13 = general.r13,
            r14 = general.r14,
            r15 = general.r15,
        )
    }
}
