//! A port that ends the guest.

use std::fmt;

use vm_device::{
    MutDevicePio,
    bus::{PioAddress, PioAddressOffset},
};

use super::EndOnWrite;

/// Where it is. Emulators have had a debug exit there before.
pub const EXIT_PORT: u16 = 0x501;

/// Ends the guest with the byte that it writes as its status.
pub struct ExitPort(EndOnWrite);

impl ExitPort {
    /// Calls `end` with the status.
    #[must_use]
    pub fn new(end: EndOnWrite) -> Self {
        Self(end)
    }
}

impl MutDevicePio for ExitPort {
    fn pio_read(&mut self, _: PioAddress, _: PioAddressOffset, data: &mut [u8]) {
        data.fill(0);
    }

    fn pio_write(&mut self, _: PioAddress, _: PioAddressOffset, data: &[u8]) {
        if let Some(status) = data.first() {
            (self.0)(*status);
        }
    }
}

impl fmt::Debug for ExitPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExitPort")
    }
}
