//! The ports and the addresses without memory, as a vCPU meets them.

use std::{ops::ControlFlow, os::fd::AsFd, sync::Arc};

use nix::sys::eventfd::EventFd;
use vm_device::{
    bus::{MmioAddress, PioAddress},
    device_manager::{IoManager, MmioManager, PioManager},
};

use super::end::End;
use crate::{kvm::GuestIo, legacy::Output};

/// What is read where there is no device.
const NOTHING: u8 = 0xff;

/// All devices of a microVM, for one vCPU.
pub(super) struct Bus {
    pub(super) devices: Arc<IoManager>,
    pub(super) output: Arc<Output>,
    /// Readable while something is wanted of this vCPU.
    pub(super) attention: Arc<EventFd>,
    pub(super) end: Arc<End>,
}

impl Bus {
    /// Sees out what was written to the console, unless something is wanted of this vCPU.
    pub(super) fn flush(&self) {
        self.output.flush(self.attention.as_fd());
    }

    fn go_on(&self) -> ControlFlow<()> {
        if self.end.has_ended() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl GuestIo for Bus {
    // Registers behind ports are a byte wide here, as on the bus of a PC: a wider access reaches those of the next ports too.
    fn read_port(&mut self, port: u16, data: &mut [u8]) {
        for (byte, port) in data.iter_mut().zip(ports_from(port)) {
            let mut one = [NOTHING];
            let _nobody = self.devices.pio_read(port, &mut one);
            [*byte] = one;
        }
    }

    fn write_port(&mut self, port: u16, data: &[u8]) -> ControlFlow<()> {
        for (byte, port) in data.iter().zip(ports_from(port)) {
            let _nobody = self.devices.pio_write(port, &[*byte]);
        }
        self.flush();
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

/// `port` and those behind it.
fn ports_from(port: u16) -> impl Iterator<Item = PioAddress> {
    (0..).map(move |behind| PioAddress(port.wrapping_add(behind)))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use vm_device::{
        MutDevicePio,
        bus::{PioAddressOffset, PioRange},
    };

    use super::*;
    use crate::legacy::{Console, Sink};

    /// Registers that are their own number until they are written.
    struct Registers([u8; 8]);

    impl MutDevicePio for Registers {
        fn pio_read(&mut self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
            data.copy_from_slice(&[self.0[usize::from(offset)]]);
        }

        fn pio_write(&mut self, _: PioAddress, offset: PioAddressOffset, data: &[u8]) {
            [self.0[usize::from(offset)]] = data.try_into().unwrap();
        }
    }

    fn bus() -> Bus {
        let mut devices = IoManager::new();
        let registers = Arc::new(Mutex::new(Registers([0, 1, 2, 3, 4, 5, 6, 7])));
        devices.register_pio(PioRange::new(PioAddress(0x3f8), 8).unwrap(), registers).unwrap();
        let sink = Sink::Writer(Box::new(std::io::sink()));
        Bus {
            devices: Arc::new(devices),
            output: Output::new(&Console::new().unwrap(), sink),
            attention: Arc::new(EventFd::new().unwrap()),
            end: End::new().unwrap(),
        }
    }

    fn read<const N: usize>(bus: &mut Bus, port: u16) -> [u8; N] {
        let mut data = [0; N];
        bus.read_port(port, &mut data);
        data
    }

    #[test]
    fn a_wide_access_reaches_the_registers_of_the_next_ports() {
        let mut bus = bus();

        assert_eq!(read(&mut bus, 0x3f8), [0]);
        assert_eq!(read(&mut bus, 0x3fb), [3, 4]);
        assert!(bus.write_port(0x3fb, &[7, 8, 9, 10]).is_continue());
        assert_eq!(read(&mut bus, 0x3f9), [1, 2, 7, 8]);
        assert_eq!(read(&mut bus, 0x3fd), [9, 10]);
    }

    #[test]
    fn where_there_is_no_device_ones_are_read() {
        let mut bus = bus();

        assert_eq!(read(&mut bus, 0x3f7), [0xff, 0]);
        assert_eq!(read(&mut bus, 0x3fe), [6, 7, 0xff, 0xff]);
        assert_eq!(read(&mut bus, 0xffff), [0xff, 0xff]);
    }
}
