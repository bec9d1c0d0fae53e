//! Interrupt controllers and timer in the kernel, and the events that go straight to them or come straight from the guest.

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use vmm_sys_util::{errno, eventfd::EventFd};

use super::{Vm, VmError};

/// Three pages below the firmware's place, where KVM on Intel keeps a task-state segment for real mode.
const TSS: usize = 0xfffb_d000;

/// Names the ioctl that failed.
fn failed(call: &'static str) -> impl FnOnce(errno::Error) -> VmError {
    move |errno| VmError::Irqchip { call, source: errno.into() }
}

impl Vm {
    /// Makes the interrupt controllers (two PICs, an IOAPIC, a local APIC for each vCPU to come) and the timer (PIT) of a
    /// PC, in the kernel. Before the first vCPU.
    ///
    /// # Errors
    /// [`VmError::Irqchip`].
    pub fn create_irqchip(&self) -> Result<(), VmError> {
        self.fd.set_tss_address(TSS).map_err(failed("KVM_SET_TSS_ADDR"))?;
        self.fd.create_irq_chip().map_err(failed("KVM_CREATE_IRQCHIP"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..kvm_pit_config::default() };
        self.fd.create_pit2(pit).map_err(failed("KVM_CREATE_PIT2"))
    }

    /// From now on a write to `event` raises interrupt `gsi`, an edge, without a way through this process.
    ///
    /// # Errors
    /// [`VmError::Irqchip`].
    pub fn register_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), VmError> {
        self.fd.register_irqfd(event, gsi).map_err(failed("KVM_IRQFD"))
    }

    /// From now on the guest's 32-bit store of `value` to the guest-physical `address` writes to `event`, without an exit.
    ///
    /// # Errors
    /// [`VmError::Irqchip`].
    pub fn register_ioevent(&self, event: &EventFd, address: u64, value: u32) -> Result<(), VmError> {
        let address = IoEventAddress::Mmio(address);
        self.fd.register_ioevent(event, &address, value).map_err(failed("KVM_IOEVENTFD"))
    }

    /// The same for a store of any value and size.
    ///
    /// # Errors
    /// [`VmError::Irqchip`].
    pub fn register_any_ioevent(&self, event: &EventFd, address: u64) -> Result<(), VmError> {
        let address = IoEventAddress::Mmio(address);
        self.fd.register_ioevent(event, &address, NoDatamatch).map_err(failed("KVM_IOEVENTFD"))
    }
}
