//! What a virtio device is to its transport and to the device thread.

use std::{
    fmt, io,
    os::fd::RawFd,
    sync::{Arc, Mutex},
};

use virtio_queue::Queue;

use super::{DeviceInterrupt, DeviceQueue};
use crate::memory::Memory;

/// A device that the transport of a vCPU thread and the device thread share.
///
/// Its lock is taken under the transport's own, and is above every lock of guest memory: a device touches and
/// discards guest memory with it held.
pub type SharedDevice = Arc<Mutex<dyn VirtioDevice>>;

/// A virtio device.
pub trait VirtioDevice: fmt::Debug + Send {
    /// The number that virtio gives this kind of device (section 5 of the specification).
    fn device_type(&self) -> u32;

    /// The features of the device itself that the driver may choose; the transport adds its own.
    fn features(&self) -> u64;

    /// The largest size of each queue: a power of two.
    fn queue_sizes(&self) -> &[u16];

    /// Copies a part of the configuration space, from `offset` bytes on; zeros beyond its end. See [`read_space`].
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The driver writes to the configuration space at `offset`, in bytes. Most devices have nothing to write.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver is ready: from here on the queues are served.
    ///
    /// # Errors
    /// [`ActivateError`]; the driver is told that the device needs a reset.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Forgets the driver: no queue and no memory of it is touched when this returns.
    fn reset(&mut self);

    /// The driver says that there is something to do in queue number `queue`. On the device thread.
    fn queue_notified(&mut self, queue: usize) -> Progress;

    /// Descriptors, besides the queues', that give the device something to do when they become readable. They stay the
    /// same, and open, for the device's life.
    fn sources(&self) -> Vec<RawFd> {
        Vec::new()
    }

    /// Number `source` of the [`sources`](Self::sources) has become readable. Told once: until the device has read all
    /// there is, it is not told again. On the device thread.
    fn source_ready(&mut self, _source: usize) -> Progress {
        Progress::Drained
    }
}

/// What a device works with once its driver is ready.
#[derive(Debug)]
pub struct Activation {
    /// Features that both sides have.
    pub features: u64,
    /// All queues, whether the driver uses them or not.
    pub queues: Vec<Queue>,
    /// The guest's memory.
    pub memory: Arc<Memory>,
    /// The way to the driver.
    pub interrupt: Arc<DeviceInterrupt>,
}

/// Why a device cannot work with what its driver has set up.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// A queue that the device cannot do without is not set up.
    #[error("queue {queue} is not ready")]
    QueueMissing {
        /// Its number.
        queue: usize,
    },
    /// Something that the device needs of the host is not to be had.
    #[error("the device cannot start")]
    Host(#[source] io::Error),
}

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// Everything is done: a notification will come before there is more.
    Drained,
    /// Call again, after other devices had their turn.
    MoreToDo,
}

impl Activation {
    /// The queues, ready to be served.
    #[must_use]
    pub fn into_queues(self) -> Vec<DeviceQueue> {
        let Self { queues, memory, interrupt, .. } = self;
        let serve = |queue| DeviceQueue::new(queue, memory.view().clone(), Arc::clone(&interrupt));
        queues.into_iter().map(serve).collect()
    }
}

/// What a driver reads of `space`, a configuration space, from `offset` bytes on: zeros beyond its end.
pub fn read_space(space: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let rest = usize::try_from(offset).ok().and_then(|offset| space.get(offset..)).unwrap_or_default();
    for (to, from) in data.iter_mut().zip(rest) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_space_ends_in_zeros() {
        let space = [1, 2, 3, 4, 5];
        let read = |offset, len| {
            let mut data = vec![0xff; len];
            read_space(&space, offset, &mut data);
            data
        };

        assert_eq!(read(0, 4), [1, 2, 3, 4]);
        assert_eq!(read(3, 4), [4, 5, 0, 0]);
        assert_eq!(read(u64::MAX, 2), [0, 0]);
    }
}
