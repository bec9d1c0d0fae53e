//! The first serial port of a PC, a 16550: what the guest writes there is its console.

use std::{
    fmt, io,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use vm_device::{
    MutDevicePio,
    bus::{PioAddress, PioAddressOffset},
};
use vm_superio::{Serial, Trigger, serial::SerialEvents};
use vmm_sys_util::eventfd::EventFd;

/// Where it is: the first port, and how many.
pub const SERIAL_PORTS: (u16, u16) = (0x3f8, 8);
/// The interrupt of a PC's first serial port.
pub const SERIAL_GSI: u32 = 4;

/// The serial port, whose output goes to `W`.
pub struct SerialConsole<W: Write> {
    serial: Serial<Interrupt, Arc<Console>, W>,
}

/// What the rest of the VMM knows of a serial console.
#[derive(Debug)]
pub struct Console {
    interrupt: EventFd,
    /// Raised when the guest has read all that was typed.
    room: EventFd,
    written: AtomicU64,
    has_lost_output: AtomicBool,
}

#[derive(Debug)]
struct Interrupt(Arc<Console>);

impl Console {
    /// A console that nobody has written to.
    ///
    /// # Errors
    /// What `eventfd` returned.
    pub fn new() -> io::Result<Arc<Self>> {
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        Ok(Arc::new(Self {
            interrupt: event()?,
            room: event()?,
            written: AtomicU64::new(0),
            has_lost_output: AtomicBool::new(false),
        }))
    }

    /// To be made an irqfd of [`SERIAL_GSI`].
    #[must_use]
    pub const fn interrupt(&self) -> &EventFd {
        &self.interrupt
    }

    /// Becomes readable when the guest has read all that was typed.
    #[must_use]
    pub const fn room(&self) -> &EventFd {
        &self.room
    }

    /// How many bytes the guest has written.
    #[must_use]
    pub fn written(&self) -> u64 {
        // A count by itself, read by who wants to know whether there is more: it orders nothing.
        self.written.load(Ordering::Relaxed)
    }

    /// Tells the user that output is lost, once: a console that nobody reads any more does not fill the log.
    pub(super) fn note_lost(&self) {
        // It orders nothing.
        if !self.has_lost_output.swap(true, Ordering::Relaxed) {
            log::warn!("what the guest writes to its console from here on is lost: nobody takes it");
        }
    }

    /// Whether output was lost.
    #[cfg(test)]
    pub(super) fn has_lost_output(&self) -> bool {
        self.has_lost_output.load(Ordering::Relaxed)
    }
}

impl SerialEvents for Console {
    fn buffer_read(&self) {}

    fn out_byte(&self) {
        self.written.fetch_add(1, Ordering::Relaxed);
    }

    // What is queued on the way out always has room.
    fn tx_lost_byte(&self) {
        self.note_lost();
    }

    fn in_buffer_empty(&self) {
        // It fails only when the event is raised already.
        let _already = self.room.write(1);
    }
}

impl<W: Write> SerialConsole<W> {
    /// A serial port that writes to `out`.
    #[must_use]
    pub fn new(console: &Arc<Console>, out: W) -> Self {
        let interrupt = Interrupt(Arc::clone(console));
        Self { serial: Serial::with_events(interrupt, Arc::clone(console), out) }
    }

    /// How many bytes can be typed before the guest reads any.
    #[must_use]
    pub fn room(&self) -> usize {
        self.serial.fifo_capacity()
    }

    /// Types `bytes`, as many as there is [room](Self::room) for. A guest in loop-back mode gets none.
    pub fn enqueue(&mut self, bytes: &[u8]) {
        if let Err(error) = self.serial.enqueue_raw_bytes(bytes) {
            log::debug!("what was typed does not reach the guest: {error:?}");
        }
    }
}

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.interrupt.write(1)
    }
}

impl<W: Write + Send> MutDevicePio for SerialConsole<W> {
    fn pio_read(&mut self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        for byte in data {
            *byte = u8::try_from(offset).map_or(0, |offset| self.serial.read(offset));
        }
    }

    fn pio_write(&mut self, _: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        for byte in data {
            let written = u8::try_from(offset).map(|offset| self.serial.write(offset, *byte));
            if let Ok(Err(error)) = written {
                log::trace!("serial port: {error}");
            }
        }
    }
}

impl<W: Write> fmt::Debug for SerialConsole<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialConsole").field("console", self.serial.events()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u16 = 0;
    const IER: u16 = 1;
    const LSR: u16 = 5;

    fn port() -> (Arc<Console>, SerialConsole<Vec<u8>>) {
        let console = Console::new().unwrap();
        let serial = SerialConsole::new(&console, Vec::new());
        (console, serial)
    }

    fn read(serial: &mut SerialConsole<Vec<u8>>, offset: u16) -> u8 {
        let mut data = [0];
        serial.pio_read(PioAddress(SERIAL_PORTS.0), offset, &mut data);
        data[0]
    }

    #[test]
    fn what_the_guest_writes_comes_out_and_is_counted() {
        let (console, mut serial) = port();

        serial.pio_write(PioAddress(SERIAL_PORTS.0), DATA, b"hello");

        assert_eq!(serial.serial.writer(), b"hello");
        assert_eq!(console.written(), 5);
    }

    #[test]
    fn what_is_typed_interrupts_and_is_read() {
        let (console, mut serial) = port();
        serial.pio_write(PioAddress(SERIAL_PORTS.0), IER, &[1]);

        serial.enqueue(b"ab");

        assert!(console.interrupt().read().is_ok());
        assert_eq!(read(&mut serial, LSR) & 1, 1);
        assert_eq!([read(&mut serial, DATA), read(&mut serial, DATA)], *b"ab");
        assert!(console.room().read().is_ok(), "all was read");
        assert_eq!(read(&mut serial, LSR) & 1, 0);
    }
}
