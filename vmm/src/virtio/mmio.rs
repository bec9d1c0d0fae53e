//! Virtio over MMIO: the registers of version 2 (virtio 1.2, section 4.2.2).

use std::{
    io,
    sync::{Arc, MutexGuard, PoisonError},
};

use virtio_bindings::{
    virtio_config::{
        VIRTIO_CONFIG_S_ACKNOWLEDGE as ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER as DRIVER,
        VIRTIO_CONFIG_S_DRIVER_OK as DRIVER_OK, VIRTIO_CONFIG_S_FAILED as FAILED,
        VIRTIO_CONFIG_S_FEATURES_OK as FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET as NEEDS_RESET,
        VIRTIO_F_VERSION_1,
    },
    virtio_mmio::{
        VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES,
        VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES,
        VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS,
        VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
        VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NOTIFY,
        VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL,
        VIRTIO_MMIO_QUEUE_USED_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_SHM_LEN_HIGH,
        VIRTIO_MMIO_SHM_LEN_LOW, VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
    },
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};
use virtio_queue::{Queue, QueueT};
use vm_device::{
    MutDeviceMmio,
    bus::{MmioAddress, MmioAddressOffset},
};
use vmm_sys_util::eventfd::EventFd;

use super::{
    ActivateError, Activation, DeviceEvents, DeviceInterrupt, SharedDevice, VirtioDevice,
    events::{Kicks, make_kicks},
};
use crate::memory::Memory;

/// How much of guest-physical space a transport takes, in bytes.
pub const MMIO_SIZE: u64 = 4096;
/// Where a driver writes the number of the queue to be notified, in bytes from the transport's start: four bytes, made
/// an ioeventfd of each queue by matching the value.
pub const QUEUE_NOTIFY: u64 = VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
/// Not the legacy interface, which is 1.
const VERSION: u32 = 2;
/// "UNDL", little-endian: any number will do.
const VENDOR: u32 = 0x4c44_4e55;
const CONFIG: u64 = VIRTIO_MMIO_CONFIG as u64;
/// The steps of a driver's initialisation, each of which needs those before it.
const STEPS: [u32; 4] = [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK];
/// The transport's own features.
const FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// The registers of one device, to be put at 4 KiB of guest-physical space that are not memory.
#[derive(Debug)]
pub struct MmioTransport {
    device: SharedDevice,
    memory: Arc<Memory>,
    interrupt: Arc<DeviceInterrupt>,
    kicks: Kicks,
    /// What the device offers, and what the transport adds.
    device_features: u64,
    driver_features: u64,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
    /// As the driver sets them up; the active device has copies.
    queues: Vec<Queue>,
    status: u32,
}

impl MmioTransport {
    /// Registers for `device`, whose driver is in `memory`, reset.
    ///
    /// # Errors
    /// What `eventfd` returned, or `InvalidInput` if the device asks for a queue whose size is no power of two.
    pub fn new(device: SharedDevice, memory: Arc<Memory>) -> io::Result<Self> {
        let (features, queues) = {
            let device = device.lock().unwrap_or_else(PoisonError::into_inner);
            let queues: Result<Vec<_>, _> =
                device.queue_sizes().iter().map(|size| Queue::new(*size)).collect();
            (device.features(), queues.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?)
        };
        Ok(Self {
            device,
            memory,
            interrupt: Arc::new(DeviceInterrupt::new()?),
            kicks: make_kicks(queues.len())?,
            device_features: features | FEATURES,
            driver_features: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
            queues,
            status: 0,
        })
    }

    /// The device's side of the event loop.
    ///
    /// # Errors
    /// What `eventfd` returned.
    pub fn events(&self) -> io::Result<DeviceEvents> {
        DeviceEvents::new(Arc::clone(&self.device), Arc::clone(&self.kicks))
    }

    /// Written whenever the driver is to be interrupted: to be made an irqfd.
    #[must_use]
    pub fn interrupt_event(&self) -> &EventFd {
        self.interrupt.event()
    }

    /// The events of the queues, in order: each to be made an ioeventfd at [`QUEUE_NOTIFY`] for its number.
    #[must_use]
    pub fn queue_events(&self) -> &[EventFd] {
        &self.kicks
    }

    /// The device behind the registers.
    #[must_use]
    pub const fn device(&self) -> &SharedDevice {
        &self.device
    }

    fn lock(&self) -> MutexGuard<'_, dyn VirtioDevice + 'static> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, register: u32) -> u32 {
        let queue = self.queues.get(self.queue_sel as usize);
        match register {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.lock().device_type(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => half(self.device_features, self.device_features_sel),
            VIRTIO_MMIO_QUEUE_NUM_MAX => queue.map_or(0, |queue| queue.max_size().into()),
            VIRTIO_MMIO_QUEUE_READY => queue.is_some_and(QueueT::ready).into(),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.reasons(),
            VIRTIO_MMIO_STATUS if self.interrupt.is_reset_needed() => self.status | NEEDS_RESET,
            VIRTIO_MMIO_STATUS => self.status,
            // No shared memory: a length of all ones says so.
            VIRTIO_MMIO_SHM_LEN_LOW | VIRTIO_MMIO_SHM_LEN_HIGH => u32::MAX,
            VIRTIO_MMIO_CONFIG_GENERATION => self.interrupt.generation(),
            _ => 0,
        }
    }

    fn write(&mut self, register: u32, value: u32) {
        match register {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES if self.is_at(DRIVER) => {
                set_half(&mut self.driver_features, self.driver_features_sel, value);
            }
            VIRTIO_MMIO_QUEUE_SEL => self.queue_sel = value,
            VIRTIO_MMIO_QUEUE_NOTIFY => {
                if let Some(kick) = self.kicks.get(value as usize) {
                    // It fails only where the event is raised already.
                    let _raised = kick.write(1);
                }
            }
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            VIRTIO_MMIO_STATUS => self.set_status(value),
            _ if self.is_at(FEATURES_OK) => self.write_queue(register, value),
            _ => log::debug!("a driver wrote {value:#x} to register {register:#x} at the wrong time"),
        }
    }

    /// Writes a register of the selected queue.
    fn write_queue(&mut self, register: u32, value: u32) {
        let Some(queue) = self.queues.get_mut(self.queue_sel as usize) else { return };
        match register {
            VIRTIO_MMIO_QUEUE_READY => queue.set_ready(value == 1),
            // What a ready queue is made of does not change.
            _ if queue.ready() => {}
            VIRTIO_MMIO_QUEUE_NUM => queue.set_size(u16::try_from(value).unwrap_or(0)),
            VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    /// Whether `step` is the latest that the driver has taken.
    fn is_at(&self, step: u32) -> bool {
        STEPS.into_iter().rfind(|taken| self.status & taken != 0) == Some(step)
    }

    /// The driver takes the next step, or several at a time, or gives up, or starts over.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        self.status |= value & FAILED;
        for step in STEPS {
            if self.status & step != 0 {
                continue;
            }
            if value & step == 0 || !self.may_take(step) {
                return;
            }
            self.status |= step;
        }
    }

    /// Whether the driver may take `step`, having taken all before it. Starts the device, if that is the step.
    fn may_take(&mut self, step: u32) -> bool {
        match step {
            FEATURES_OK => {
                let unknown = self.driver_features & !self.device_features;
                unknown == 0 && self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0
            }
            DRIVER_OK => {
                if let Err(error) = self.activate() {
                    log::warn!("a virtio device was set up wrongly by its driver: {error}");
                    self.interrupt.needs_reset();
                }
                true
            }
            _ => true,
        }
    }

    fn activate(&self) -> Result<(), ActivateError> {
        let event_idx = self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let mut queues = Vec::with_capacity(self.queues.len());
        for (index, queue) in self.queues.iter().enumerate() {
            let wrong = || ActivateError::QueueMissing { queue: index };
            if queue.ready() && !queue.is_valid(self.memory.view()) {
                return Err(wrong());
            }
            let mut queue = Queue::try_from(queue.state()).map_err(|_| wrong())?;
            queue.set_event_idx(event_idx);
            queues.push(queue);
        }
        self.lock().activate(Activation {
            features: self.driver_features,
            queues,
            memory: Arc::clone(&self.memory),
            interrupt: Arc::clone(&self.interrupt),
        })?;
        // What came before was not heard: Linux notifies the balloon's queue of statistics once, and before this.
        for kick in self.kicks.iter() {
            // It fails only where the event is raised already.
            let _raised = kick.write(1);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.lock().reset();
        self.interrupt.reset();
        self.queues.iter_mut().for_each(QueueT::reset);
        self.driver_features = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.queue_sel = 0;
        self.status = 0;
    }
}

impl MutDeviceMmio for MmioTransport {
    fn mmio_read(&mut self, _: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            self.lock().read_config(offset, data);
        } else if let (Ok(register), 4) = (u32::try_from(offset), data.len()) {
            data.copy_from_slice(&self.read(register).to_le_bytes());
        } else {
            // Registers are four bytes wide.
            data.fill(0);
        }
    }

    fn mmio_write(&mut self, _: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            if self.status & DRIVER != 0 {
                self.lock().write_config(offset, data);
            }
        } else if let (Ok(register), Ok(value)) = (u32::try_from(offset), data.try_into()) {
            self.write(register, u32::from_le_bytes(value));
        }
    }
}

/// Half `sel` of `features`: the low 32 bits, the high ones, and nothing beyond.
fn half(features: u64, sel: u32) -> u32 {
    let half = features.checked_shr(sel.saturating_mul(u32::BITS)).unwrap_or(0);
    u32::try_from(half & u64::from(u32::MAX)).unwrap_or(0)
}

/// Sets half `sel` of `features`.
const fn set_half(features: &mut u64, sel: u32, value: u32) {
    match sel {
        0 => *features = *features >> 32 << 32 | value as u64,
        1 => *features = *features & u32::MAX as u64 | (value as u64) << 32,
        _ => {}
    }
}

#[cfg(test)]
mod tests;
