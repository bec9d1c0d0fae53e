//! The few devices of a PC that a microVM has: a serial port as its console, a keyboard controller with the line that resets
//! the CPU, and a port with which a guest ends and says with what status.
//!
//! Each is a [`MutDevicePio`](vm_device::MutDevicePio) of byte-wide registers, reached a byte at a time. None knows KVM: the
//! serial port interrupts through an event, and the two others end the run through [`EndOnWrite`].

mod exit_port;
mod input;
mod keyboard;
mod output;
mod serial;
pub mod terminal;

pub use exit_port::{EXIT_PORT, ExitPort};
pub use input::{Escape, Input, Typed};
pub use keyboard::{KEYBOARD_GSI, KEYBOARD_PORTS, Keyboard};
pub use output::{Output, Queue, Sink};
pub use serial::{Console, SERIAL_GSI, SERIAL_PORTS, SerialConsole};

/// What a device of this module does when the guest writes what ends it: called once or more, on the vCPU's thread.
pub type EndOnWrite = Box<dyn FnMut(u8) + Send>;
