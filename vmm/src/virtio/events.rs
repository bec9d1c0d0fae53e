//! A device on the device thread: its queues' notifications and its other sources, in one event loop.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, PoisonError},
};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;

use super::{Progress, SharedDevice};

/// The event of each queue: to be written by KVM, as an ioeventfd, or by the transport.
pub type Kicks = Arc<[EventFd]>;

/// What one device has on the event loop.
#[derive(Debug)]
pub struct DeviceEvents {
    device: SharedDevice,
    kicks: Kicks,
    /// Written when one of the device's own sources was not served to its end.
    again: EventFd,
    sources: Vec<RawFd>,
    /// The sources that were not served to their end.
    unfinished: Vec<usize>,
}

/// An event for each of `queues` queues.
///
/// # Errors
/// What `eventfd` returned.
pub(super) fn make_kicks(queues: usize) -> io::Result<Kicks> {
    (0..queues).map(|_| EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)).collect()
}

impl DeviceEvents {
    /// `device`, whose queues are notified through `kicks`.
    ///
    /// # Errors
    /// What `eventfd` returned.
    pub(super) fn new(device: SharedDevice, kicks: Kicks) -> io::Result<Self> {
        let sources = device.lock().unwrap_or_else(PoisonError::into_inner).sources();
        let again = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self { device, kicks, again, sources, unfinished: Vec::new() })
    }

    /// The descriptors in the order of their data: queues, sources, and the event that a source is not finished.
    fn descriptors(&self) -> impl Iterator<Item = RawFd> + '_ {
        let kicks = self.kicks.iter().map(AsRawFd::as_raw_fd);
        kicks.chain(self.sources.iter().copied()).chain([self.again.as_raw_fd()])
    }

    fn queue_notified(&self, queue: usize, kick: &EventFd) {
        // Read before the queue is looked at: what comes later kicks again. Nothing to read is no harm either.
        let _count = kick.read();
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        if device.queue_notified(queue) == Progress::MoreToDo {
            // It fails only where the event is raised already.
            let _raised = kick.write(1);
        }
    }

    fn source_ready(&mut self, source: usize) {
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        if device.source_ready(source) == Progress::MoreToDo {
            self.unfinished.push(source);
            let _raised = self.again.write(1);
        }
    }
}

impl MutEventSubscriber for DeviceEvents {
    fn init(&mut self, ops: &mut EventOps) {
        for (data, descriptor) in (0_u32..).zip(self.descriptors()) {
            // A source may stay readable for as long as the driver gives it no buffers: only its edges count.
            let own = self.sources.contains(&descriptor);
            let set = if own { EventSet::IN | EventSet::EDGE_TRIGGERED } else { EventSet::IN };
            if let Err(error) = ops.add(Events::with_data_raw(descriptor, data, set)) {
                log::error!("a virtio device cannot be watched: {error}");
            }
        }
    }

    fn process(&mut self, events: Events, _: &mut EventOps) {
        let index = events.data() as usize;
        if let Some(kick) = self.kicks.get(index) {
            self.queue_notified(index, kick);
        } else if index < self.kicks.len() + self.sources.len() {
            self.source_ready(index - self.kicks.len());
        } else {
            let _count = self.again.read();
            for source in std::mem::take(&mut self.unfinished) {
                self.source_ready(source);
            }
        }
    }
}

#[cfg(test)]
mod tests;
