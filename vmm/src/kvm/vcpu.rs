//! A vCPU: its state at entry, KVM_RUN, and why it came back.

use std::{io, num::NonZeroU32, ptr, sync::Arc};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_HALTED, Msrs, kvm_msr_entry};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use super::{
    CpuFeature, EntryState, Exit, GuestIo, KernelEntry, Registers, Stats, StatsError,
    exit::internal_error,
    guest_io::run_answered,
    poison::Guarded,
    stats,
    stop::{Armed, StopHandle},
    vm::SlotMemory,
};

/// IA32_MISC_ENABLE, and its one bit that a kernel expects set.
const MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
/// IA32_MTRR_DEF_TYPE: on, and all memory write-back that no range says otherwise of.
const MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ON_WRITE_BACK: u64 = 1 << 11 | 6;
/// Registers of the local APIC, and how its pins deliver.
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const MODE_NMI: u32 = 4 << 8;
const MODE_EXTINT: u32 = 7 << 8;

/// One virtual CPU. Run it on one thread.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    stop: StopHandle,
    /// Dropped after the descriptor.
    _memory: Arc<SlotMemory>,
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
        self.fd.set_sregs(&entry.sregs(&sregs)).map_err(failed("KVM_SET_SREGS"))?;
        self.fd.set_regs(&entry.regs()).map_err(failed("KVM_SET_REGS"))
    }

    /// Lets the vCPU start a kernel: the boot vCPU only.
    ///
    /// # Errors
    /// [`VcpuError`] with the ioctl that failed.
    pub fn set_kernel_entry(&mut self, entry: KernelEntry) -> Result<(), VcpuError> {
        let sregs = self.fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
        self.fd.set_sregs(&entry.sregs(&sregs)).map_err(failed("KVM_SET_SREGS"))?;
        self.fd.set_regs(&entry.regs()).map_err(failed("KVM_SET_REGS"))
    }

    /// What a PC's firmware leaves to a kernel: memory types, and the pins of the local APIC.
    pub(super) fn set_up_for_kernel(&self) -> Result<(), VcpuError> {
        let msr = |index, data| kvm_msr_entry { index, data, ..kvm_msr_entry::default() };
        let wanted = [msr(MISC_ENABLE, FAST_STRINGS), msr(MTRR_DEF_TYPE, MTRR_ON_WRITE_BACK)];
        let refused = |source| VcpuError { call: "KVM_SET_MSRS", source };
        let msrs = Msrs::from_entries(&wanted).map_err(|_| refused(io::ErrorKind::OutOfMemory.into()))?;
        if self.fd.set_msrs(&msrs).map_err(failed("KVM_SET_MSRS"))? != wanted.len() {
            return Err(refused(io::Error::other("KVM did not take all of them")));
        }
        let mut lapic = self.fd.get_lapic().map_err(failed("KVM_GET_LAPIC"))?;
        for (register, mode) in [(LVT_LINT0, MODE_EXTINT), (LVT_LINT1, MODE_NMI)] {
            for (to, from) in lapic.regs[register..].iter_mut().zip(mode.to_le_bytes()) {
                *to = from.cast_signed();
            }
        }
        self.fd.set_lapic(&lapic).map_err(failed("KVM_SET_LAPIC"))
    }

    /// Those of `masked` that CPUID shows all the same: some KVMs let the hardware's bits through.
    ///
    /// # Errors
    /// [`VcpuError`] with the ioctl that failed.
    pub fn still_shown(&self, masked: &[CpuFeature]) -> Result<Vec<CpuFeature>, VcpuError> {
        if masked.is_empty() {
            return Ok(Vec::new());
        }
        let cpuid = self.fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(failed("KVM_GET_CPUID2"))?;
        Ok(masked.iter().copied().filter(|feature| feature.is_in(cpuid.as_slice())).collect())
    }

    /// The guest-physical address of the guest-virtual `address`, by the page tables that this vCPU uses now.
    #[must_use]
    pub fn translate(&self, address: u64) -> Option<u64> {
        let found = self.fd.translate_gva(address).ok()?;
        (found.valid != 0).then_some(found.physical_address)
    }

    /// Tells the guest's clock that the guest was paused, so that it finds no lockup. Of no use to guests without one.
    pub fn note_pause(&self) {
        if let Err(errno) = self.fd.kvmclock_ctrl() {
            log::debug!("the guest's clock does not know of the pause: {errno}");
        }
    }

    /// Runs the guest until something happens that KVM does not handle itself.
    ///
    /// Returns [`Exit::Interrupted`] at once when a stop was asked for, also before the call.
    ///
    /// # Errors
    /// [`VcpuError`] when KVM_RUN itself failed.
    pub fn run(&mut self) -> Result<Exit, VcpuError> {
        self.guarded(|vcpu| {
            let left = match vcpu.fd.run() {
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    let mut value = [0; 8];
                    value[..data.len()].copy_from_slice(data);
                    return Ok(Exit::MmioWrite { address, value: u64::from_le_bytes(value) });
                }
                Ok(VcpuExit::MmioRead(address, _)) => return Ok(Exit::MmioRead { address }),
                Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => return Ok(Exit::Other("KVM_EXIT_IO")),
                Ok(exit) => Ok(Left::of(&exit)),
                Err(errno) => Err(errno.into()),
            };
            vcpu.explain(left)
        })
    }

    /// The same, and lets `io` answer what the guest does to devices.
    ///
    /// # Errors
    /// [`VcpuError`] when KVM_RUN itself failed.
    pub fn run_with(&mut self, io: &mut dyn GuestIo) -> Result<Exit, VcpuError> {
        self.guarded(|vcpu| {
            loop {
                if let Some(left) = run_answered(&mut vcpu.fd, io).transpose() {
                    return vcpu.explain(left);
                }
            }
        })
    }

    /// Calls `enter`, unless a stop was asked for, and turns the host's signals into exits meanwhile.
    fn guarded(
        &mut self,
        enter: impl FnOnce(&mut Self) -> Result<Exit, VcpuError>,
    ) -> Result<Exit, VcpuError> {
        let immediate_exit = ptr::from_mut(&mut self.fd.get_kvm_run().immediate_exit);
        // SAFETY: `kvm_run` is mapped as long as `self.fd` lives, and `armed` is dropped before this call returns. The
        // handler writes on this thread, by a volatile store, while KVM_RUN is being entered or running: the kernel
        // may write to that page then too, so no reference into it that `VcpuFd::run` makes can be relied on meanwhile.
        let armed = unsafe { Armed::new(immediate_exit) };
        let guarded = Guarded::new();
        let exit = if self.stop.is_requested() { Ok(Exit::Interrupted) } else { enter(self) };
        drop(armed);
        match guarded.poisoned() {
            Some(address) => Ok(Exit::Poisoned { address }),
            None => exit,
        }
    }

    /// What it means that KVM_RUN came back so.
    fn explain(&mut self, left: io::Result<Left>) -> Result<Exit, VcpuError> {
        match left {
            Ok(Left::Known(exit)) => Ok(exit),
            Ok(Left::InternalError) => Ok(internal_error(self.fd.get_kvm_run())),
            // EAGAIN: another vCPU has started this one, which it was waiting for. It runs when it is entered again.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {
                Ok(Exit::Interrupted)
            }
            Err(source) => Err(VcpuError { call: "KVM_RUN", source }),
        }
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
        let code_bits = match (sregs.cs.l, sregs.cs.db) {
            (0, 0) => 16,
            (0, _) => 32,
            _ => 64,
        };
        // Without an irqchip KVM has no such state, and a halt is an exit.
        let is_halted = self.fd.get_mp_state().is_ok_and(|state| state.mp_state == KVM_MP_STATE_HALTED);
        Ok(Registers { general, cr2: sregs.cr2, cr3: sregs.cr3, code_bits, is_halted })
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

/// An exit that is none of I/O, without its borrow of the vCPU.
pub(super) enum Left {
    Known(Exit),
    InternalError,
}

impl Left {
    pub(super) const fn of(exit: &VcpuExit<'_>) -> Self {
        Self::Known(match *exit {
            VcpuExit::Intr => Exit::Interrupted,
            VcpuExit::Shutdown => Exit::Shutdown,
            VcpuExit::FailEntry(reason, _) => Exit::FailEntry { reason },
            VcpuExit::MemoryFault { gpa, .. } => Exit::MemoryFault { address: gpa },
            VcpuExit::InternalError => return Self::InternalError,
            VcpuExit::Hlt => Exit::Other("KVM_EXIT_HLT"),
            VcpuExit::Debug(_) => Exit::Other("KVM_EXIT_DEBUG"),
            _ => Exit::Other("an exit that no guest of underlay's causes"),
        })
    }
}
