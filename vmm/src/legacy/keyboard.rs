//! The keyboard controller, of which there is only the line that resets the CPU.

use std::{convert::Infallible, fmt, sync::Mutex, sync::PoisonError};

use vm_device::{
    MutDevicePio,
    bus::{PioAddress, PioAddressOffset},
};
use vm_superio::{I8042Device, Trigger};

use super::EndOnWrite;

/// Where it is: the first port, and how many.
pub const KEYBOARD_PORTS: (u16, u16) = (0x60, 5);

/// A controller without a keyboard.
#[derive(Debug)]
pub struct Keyboard(I8042Device<Reset>);

/// What happens at a reset. The trait triggers through a shared reference, so a lock; nobody else takes it.
struct Reset(Mutex<EndOnWrite>);

impl Keyboard {
    /// Calls `reset` when the guest resets its CPU.
    #[must_use]
    pub fn new(reset: EndOnWrite) -> Self {
        Self(I8042Device::new(Reset(Mutex::new(reset))))
    }
}

impl Trigger for Reset {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        (self.0.lock().unwrap_or_else(PoisonError::into_inner))(0);
        Ok(())
    }
}

impl MutDevicePio for Keyboard {
    fn pio_read(&mut self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        data.fill(u8::try_from(offset).map_or(0, |offset| self.0.read(offset)));
    }

    fn pio_write(&mut self, _: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        if let (Ok(offset), Some(value)) = (u8::try_from(offset), data.first()) {
            let Ok(()) = self.0.write(offset, *value);
        }
    }
}

impl fmt::Debug for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reset")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[test]
    fn only_the_reset_command_resets() {
        let resets = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&resets);
        let mut keyboard = Keyboard::new(Box::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        }));
        let mut write = |offset, value| keyboard.pio_write(PioAddress(0x60), offset, &[value]);

        write(4, 0xd1);
        write(0, 0xfe);
        assert_eq!(resets.load(Ordering::Relaxed), 0);
        write(4, 0xfe);
        assert_eq!(resets.load(Ordering::Relaxed), 1);
    }
}
