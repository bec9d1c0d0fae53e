//! Virtio devices over MMIO (virtio 1.2, version 2 of the transport).
//!
//! ```text
//!   vCPU thread: MMIO exit             device thread: event loop
//!          │                                     │
//!   mmio::MmioTransport                events::DeviceEvents
//!    registers, features, status        queue notifications, tap, timer
//!          └────────► Mutex<dyn VirtioDevice> ◄──┘
//!                              │ queue::DeviceQueue
//!                              │   descriptor chains, checked, as host buffers
//!                              ▼
//!                       DeviceInterrupt ──► eventfd (KVM's irqfd)
//! ```
//!
//! No device knows KVM: it is notified through eventfds and interrupts through one. No device keeps a translation of guest
//! memory from one request to the next, so none needs to be told before a page goes; memory that the kernel itself
//! reads or writes on a device's behalf is used synchronously, or pinned.

pub mod balloon;
pub mod block;
pub mod buffers;
pub mod device;
pub mod events;
pub mod interrupt;
pub mod mmio;
pub mod net;
pub mod queue;
pub mod rng;
#[cfg(test)]
mod testing;

pub use device::{ActivateError, Activation, Progress, SharedDevice, VirtioDevice};
pub use events::DeviceEvents;
pub use interrupt::DeviceInterrupt;
pub use mmio::MmioTransport;
pub use queue::{Answer, Chain, ChainError, DeviceQueue, QueueError};
