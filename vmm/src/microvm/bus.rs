//! The ports and the addresses without memory, as a vCPU meets them.

use std::{ops::ControlFlow, sync::Arc};

use vm_device::{
    bus::{MmioAddress, PioAddress},
    device_manager::{IoManager, MmioManager, PioManager},
};

use super::end::End;
use crate::kvm::GuestIo;

/// What is read where there is no device.
const NOTHING: u8 = 0xff;

/// All devices of a microVM, for one vCPU.
pub(super) struct Bus {
    pub(super) devices: Arc<IoManager>,
    pub(super) end: Arc<End>,
}

impl Bus {
    fn go_on(&self) -> ControlFlow<()> {
        if self.end.has_ended() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl GuestIo for Bus {
    fn read_port(&mut self, port: u16, data: &mut [u8]) {
        // Ports of devices here are a byte wide: more of them come in a row from the same one.
        for byte in data {
            let mut one = [NOTHING];
            let _nobody = self.devices.pio_read(PioAddress(port), &mut one);
            [*byte] = one;
        }
    }

    fn write_port(&mut self, port: u16, data: &[u8]) -> ControlFlow<()> {
        for byte in data {
            let _nobody = self.devices.pio_write(PioAddress(port), &[*byte]);
        }
        self.go_on()
    }

    fn read_mmio(&mut self, address: u64, data: &mut [u8]) {
        if self.devices.mmio_read(MmioAddress(address), data).is_err() {
            data.fill(NOTHING);
        }
    }

    fn write_mmio(&mut self, address: u64, data: &[u8]) -> ControlFlow<()> {
        if self.devices.mmio_write(MmioAddress(address), data).is_err() {
            log::debug!("the guest wrote to {address:#x}, where there is no device");
        }
        self.go_on()
    }
}
