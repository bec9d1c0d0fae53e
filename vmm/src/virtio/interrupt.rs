//! How a device gets the driver's attention.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vmm_sys_util::eventfd::EventFd;

/// The interrupt of one device: an event that KVM turns into an edge, and the reasons for it.
#[derive(Debug)]
pub struct DeviceInterrupt {
    event: EventFd,
    /// Bits of the register InterruptStatus that the driver has not acknowledged.
    reasons: AtomicU32,
    /// Which version of the configuration space the driver would read.
    generation: AtomicU32,
    /// The device gave up on what the driver told it.
    needs_reset: AtomicBool,
}

impl DeviceInterrupt {
    /// One with no reason pending.
    ///
    /// # Errors
    /// What `eventfd` returned.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            event: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            reasons: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
        })
    }

    /// What is written whenever the driver is to be interrupted: to be made an irqfd.
    pub const fn event(&self) -> &EventFd {
        &self.event
    }

    /// Says that buffers have been used.
    pub fn queue_used(&self) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    /// Says that the configuration space has changed.
    pub fn config_changed(&self) {
        // Pairs with the load in `generation`: who reads the new number reads the new configuration.
        self.generation.fetch_add(1, Ordering::Release);
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    /// Says that the device does nothing more until it is reset.
    pub fn needs_reset(&self) {
        // Pairs with the load in `is_reset_needed`.
        self.needs_reset.store(true, Ordering::Release);
        self.config_changed();
    }

    /// Whether the device waits to be reset.
    #[must_use]
    pub fn is_reset_needed(&self) -> bool {
        // Pairs with the store in `needs_reset`.
        self.needs_reset.load(Ordering::Acquire)
    }

    /// Which version of the configuration space there is.
    #[must_use]
    pub fn generation(&self) -> u32 {
        // Pairs with the addition in `config_changed`.
        self.generation.load(Ordering::Acquire)
    }

    /// The reasons that have not been acknowledged, as bits of InterruptStatus.
    #[must_use]
    pub fn reasons(&self) -> u32 {
        // Pairs with the addition in `raise`.
        self.reasons.load(Ordering::Acquire)
    }

    /// The driver has seen these reasons, and looks at what they are about from now on.
    pub(super) fn acknowledge(&self, reasons: u32) {
        // It orders nothing: what the driver looks at next is ordered by the rings' own indices.
        self.reasons.fetch_and(!reasons, Ordering::Relaxed);
    }

    /// As after the machine's reset. The generation only grows: a driver must not take a new configuration for an old.
    pub(super) fn reset(&self) {
        self.reasons.store(0, Ordering::Relaxed);
        self.needs_reset.store(false, Ordering::Relaxed);
    }

    fn raise(&self, reason: u32) {
        // Pairs with the load in `reasons`, which the driver makes because of the event that follows.
        self.reasons.fetch_or(reason, Ordering::Release);
        // It fails only when the counter is full, and then an interrupt is on its way.
        let _pending = self.event.write(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_add_up_until_they_are_acknowledged() {
        let interrupt = DeviceInterrupt::new().unwrap();

        interrupt.queue_used();
        interrupt.config_changed();
        assert_eq!(interrupt.reasons(), VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG);
        interrupt.acknowledge(VIRTIO_MMIO_INT_VRING);

        assert_eq!(interrupt.reasons(), VIRTIO_MMIO_INT_CONFIG);
        assert_eq!(interrupt.event().read().unwrap(), 2);
        assert_eq!(interrupt.generation(), 1);
    }

    #[test]
    fn a_reset_forgets_everything_but_the_generation() {
        let interrupt = DeviceInterrupt::new().unwrap();

        interrupt.needs_reset();
        interrupt.reset();

        assert_eq!((interrupt.reasons(), interrupt.is_reset_needed()), (0, false));
        assert_eq!(interrupt.generation(), 1);
    }
}
