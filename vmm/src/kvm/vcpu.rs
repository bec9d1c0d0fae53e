//! A vCPU: its state at entry, KVM_RUN, and why it came back.

use std::{fmt, io, num::NonZeroU32, ptr, sync::Arc};

use kvm_bindings::{CpuId, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use super::{
    Stats, StatsError,
    poison::Guarded,
    stats,
    stop::{Armed, StopHandle},
    vm::SlotMemory,
};

const CR0_PE_MP_ET_NE_WP_PG: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME_LMA_NXE: u64 = 1 << 8 | 1 << 10 | 1 << 11;
/// Bit 1 of RFLAGS is always set; everything else, interrupts included, is off.
const RFLAGS_RESERVED: u64 = 1 << 1;

/// One virtual CPU. Run it on one thread.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    stop: StopHandle,
    /// Dropped after the descriptor.
    _memory: Arc<SlotMemory>,
}

/// The state in which a vCPU starts: 64-bit mode at privilege level 3, so that its code runs natively also where
/// KVM emulates level 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryState {
    /// The first instruction, a guest-virtual address.
    pub rip: u64,
    /// The first argument of the guest's code, in RDI.
    pub rdi: u64,
    /// The top-level page table, guest-physical and 4 KiB-aligned.
    pub cr3: u64,
}

/// The registers that say where a guest is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Registers {
    /// General registers, RIP and RFLAGS, as KVM gives them.
    pub general: kvm_regs,
    /// The address of the last page fault.
    pub cr2: u64,
    /// The top-level page table.
    pub cr3: u64,
}

/// Why KVM_RUN came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest wrote to an address without memory.
    MmioWrite {
        /// Guest-physical address.
        address: u64,
        /// The value, zero-extended.
        value: u64,
    },
    /// The guest read from an address without memory.
    MmioRead {
        /// Guest-physical address.
        address: u64,
    },
    /// A signal, or a request to stop.
    Interrupted,
    /// The guest touched memory that is lost for good: poisoned, by a fault of the hardware or by who runs the memory.
    Poisoned {
        /// The host address of the page.
        address: u64,
    },
    /// The guest took a fault while it had no way to handle one: a triple fault.
    Shutdown,
    /// KVM could not go on: an instruction that it cannot emulate, for one.
    InternalError {
        /// KVM's number for the reason; 1 is an emulation failure.
        suberror: u32,
    },
    /// The processor refused the vCPU's state.
    FailEntry {
        /// The processor's number for the reason.
        reason: u64,
    },
    /// KVM found no host page behind a guest address.
    MemoryFault {
        /// Guest-physical address.
        address: u64,
    },
    /// An exit that no guest of ours causes, by its KVM_EXIT number or name.
    Other(&'static str),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MmioWrite { address, .. } => {
                write!(f, "it wrote {address:#x}, where there is no memory")
            }
            Self::MmioRead { address } => {
                write!(f, "it read {address:#x}, where there is no memory")
            }
            Self::Interrupted => f.write_str("it was interrupted"),
            Self::Poisoned { address } => {
                write!(f, "it touched a page that is poisoned, at the host's {address:#x}")
            }
            Self::Shutdown => f.write_str("triple fault (it has no handler, so its first fault is its last)"),
            Self::InternalError { suberror: 1 } => f.write_str("KVM cannot emulate its next instruction"),
            Self::InternalError { suberror } => {
                write!(f, "KVM internal error, suberror {suberror}")
            }
            Self::FailEntry { reason } => {
                write!(f, "the processor refused its state, reason {reason:#x}")
            }
            Self::MemoryFault { address } => {
                write!(f, "the host has no page for guest address {address:#x}")
            }
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// Why a vCPU could not be made or run.
#[derive(Debug, thiserror::Error)]
#[error("{call} failed")]
pub struct VcpuError {
    /// The ioctl.
    pub call: &'static str,
    /// What it returned.
    #[source]
    pub source: io::Error,
}

/// Names the ioctl that failed.
fn failed(call: &'static str) -> impl FnOnce(vmm_sys_util::errno::Error) -> VcpuError {
    move |errno| VcpuError { call, source: errno.into() }
}

impl Vcpu {
    pub(super) fn create(
        vm: &VmFd,
        id: u32,
        cpuid: &CpuId,
        memory: Arc<SlotMemory>,
    ) -> Result<Self, VcpuError> {
        let fd = vm.create_vcpu(id.into()).map_err(failed("KVM_CREATE_VCPU"))?;
        fd.set_cpuid2(cpuid).map_err(failed("KVM_SET_CPUID2"))?;
        Ok(Self { fd, stop: StopHandle::default(), _memory: memory })
    }

    /// Puts the vCPU into its entry state.
    ///
    /// # Errors
    /// [`VcpuError`] with the ioctl that failed.
    pub fn set_entry_state(&mut self, entry: EntryState) -> Result<(), VcpuError> {
        let sregs = self.fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
        self.fd.set_sregs(&user_mode(&sregs, entry.cr3)).map_err(failed("KVM_SET_SREGS"))?;
        let regs =
            kvm_regs { rip: entry.rip, rdi: entry.rdi, rflags: RFLAGS_RESERVED, ..kvm_regs::default() };
        self.fd.set_regs(&regs).map_err(failed("KVM_SET_REGS"))
    }

    /// Runs the guest until something happens that KVM does not handle itself.
    ///
    /// Returns [`Exit::Interrupted`] at once when a stop was asked for, also before the call.
    ///
    /// # Errors
    /// [`VcpuError`] when KVM_RUN itself failed.
    pub fn run(&mut self) -> Result<Exit, VcpuError> {
        let immediate_exit = ptr::from_mut(&mut self.fd.get_kvm_run().immediate_exit);
        // SAFETY: `kvm_run` is mapped as long as `self.fd` lives, and `armed` is dropped before this call returns. The
        // handler writes on this thread, by a volatile store, while KVM_RUN is being entered or running: the kernel
        // may write to that page then too, so no reference into it that `VcpuFd::run` makes can be relied on meanwhile.
        let armed = unsafe { Armed::new(immediate_exit) };
        let guarded = Guarded::new();
        let exit = if self.stop.is_requested() { Ok(Exit::Interrupted) } else { self.enter() };
        drop(armed);
        match guarded.poisoned() {
            Some(address) => Ok(Exit::Poisoned { address }),
            None => exit,
        }
    }

    fn enter(&mut self) -> Result<Exit, VcpuError> {
        let exit = match self.fd.run() {
            Ok(VcpuExit::MmioWrite(address, data)) => {
                let mut value = [0; 8];
                value[..data.len()].copy_from_slice(data);
                Exit::MmioWrite { address, value: u64::from_le_bytes(value) }
            }
            Ok(VcpuExit::MmioRead(address, _)) => Exit::MmioRead { address },
            Ok(VcpuExit::Intr) => Exit::Interrupted,
            Ok(VcpuExit::Shutdown) => Exit::Shutdown,
            Ok(VcpuExit::FailEntry(reason, _)) => Exit::FailEntry { reason },
            Ok(VcpuExit::MemoryFault { gpa, .. }) => Exit::MemoryFault { address: gpa },
            Ok(VcpuExit::InternalError) => Exit::InternalError { suberror: self.suberror() },
            Ok(VcpuExit::Hlt) => Exit::Other("KVM_EXIT_HLT"),
            Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => Exit::Other("KVM_EXIT_IO"),
            Ok(VcpuExit::Debug(_)) => Exit::Other("KVM_EXIT_DEBUG"),
            Ok(_) => Exit::Other("an exit that no guest of underlay's causes"),
            Err(errno) if errno.errno() == libc::EINTR => Exit::Interrupted,
            Err(errno) => return Err(failed("KVM_RUN")(errno)),
        };
        Ok(exit)
    }

    fn suberror(&mut self) -> u32 {
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR, so this is the field that the kernel filled; it is
        // plain data, valid whatever its bytes.
        unsafe { run.__bindgen_anon_1.internal.suberror }
    }

    /// The handle with which another thread stops this vCPU.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Where the guest is.
    ///
    /// # Errors
    /// [`VcpuError`] with the ioctl that failed.
    pub fn registers(&self) -> Result<Registers, VcpuError> {
        let general = self.fd.get_regs().map_err(failed("KVM_GET_REGS"))?;
        let sregs = self.fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
        Ok(Registers { general, cr2: sregs.cr2, cr3: sregs.cr3 })
    }

    /// The frequency of the guest's time stamp counter, in kHz.
    ///
    /// # Errors
    /// [`VcpuError`] with the ioctl that failed.
    pub fn tsc_khz(&self) -> Result<NonZeroU32, VcpuError> {
        let khz = self.fd.get_tsc_khz().map_err(failed("KVM_GET_TSC_KHZ"))?;
        NonZeroU32::new(khz).ok_or_else(|| VcpuError {
            call: "KVM_GET_TSC_KHZ",
            source: io::Error::other("KVM does not know the frequency"),
        })
    }

    /// The vCPU's own binary statistics.
    ///
    /// # Errors
    /// [`StatsError`].
    pub fn stats(&self) -> Result<Stats, StatsError> {
        stats::open(&self.fd)
    }
}

/// `reset` changed to 64-bit mode at privilege level 3, with the page tables at `cr3` and no interrupt handler.
fn user_mode(reset: &kvm_sregs, cr3: u64) -> kvm_sregs {
    let segment = |selector: u16, type_: u8, long: u8| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 3,
        db: 1 - long,
        s: 1,
        l: long,
        g: 1,
        ..kvm_segment::default()
    };
    let (code, data) = (segment(0x33, 0xb, 1), segment(0x2b, 0x3, 0));
    kvm_sregs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        // A busy 64-bit task-state segment: processors with EPT check it on entry, nothing ever uses it.
        tr: kvm_segment { limit: 0x67, selector: 0x40, type_: 0xb, present: 1, ..kvm_segment::default() },
        ldt: kvm_segment { unusable: 1, ..kvm_segment::default() },
        gdt: kvm_dtable::default(),
        idt: kvm_dtable::default(),
        cr0: CR0_PE_MP_ET_NE_WP_PG,
        cr3,
        cr4: CR4_PAE,
        efer: EFER_LME_LMA_NXE,
        ..*reset
    }
}
