//! A queue as its device sees it: requests come as checked chains of buffers, answers go back in batches.

use std::sync::Arc;

use guest_mem::GuestMemoryView;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryError;

use super::{
    DeviceInterrupt, Progress,
    buffers::{ReadBuffers, WriteBuffers},
};

/// How many times the queue's size may be served before other devices get their turn.
const ROUNDS: u32 = 4;

/// One request: a descriptor chain whose every buffer lies in guest memory.
#[derive(Debug)]
pub struct Chain {
    head: u16,
    /// What the driver sends, in front of what it wants to have.
    pub readable: ReadBuffers,
    /// Where the device puts its answer.
    pub writable: WriteBuffers,
}

/// Why a descriptor chain is not a request.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// It begins or goes on where no descriptor is, is a loop, or is longer than 4 GiB.
    #[error("the descriptor chain is broken: it loops, or leads out of its table")]
    Broken,
    /// It has more descriptors than the queue.
    #[error("the descriptor chain is longer than the queue")]
    TooLong,
    /// A buffer for the device to read comes after one to write.
    #[error("a descriptor to read follows one to write")]
    WrongOrder,
    /// A buffer is not guest memory.
    #[error("a buffer is not guest memory")]
    NotMemory(#[source] GuestMemoryError),
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done, and the device wrote so many bytes, from the front.
    Used(u32),
    /// It stays with the device, to be [used](DeviceQueue::complete) later.
    Kept,
    /// It could not be served yet: it stays with the queue, and so does everything behind it.
    NotYet,
}

/// Why a queue cannot be served any more until the device is reset.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The driver says that there are more requests than the queue holds, or the rings are not guest memory.
    #[error("the rings of the queue make no sense")]
    Rings(#[source] virtio_queue::Error),
}

/// One queue of an active device.
#[derive(Debug)]
pub struct DeviceQueue {
    queue: Queue,
    memory: GuestMemoryView,
    interrupt: Arc<DeviceInterrupt>,
    /// Its lists are used again for every request.
    chain: Chain,
    /// How many requests were malformed.
    malformed: u64,
    /// The rings made no sense; only a reset mends that.
    broken: bool,
}

impl Chain {
    fn new(memory: &GuestMemoryView) -> Self {
        let readable = ReadBuffers::new(memory.clone());
        let writable = WriteBuffers::new(memory.clone());
        Self { head: 0, readable, writable }
    }

    /// The index that the driver knows the request by.
    #[must_use]
    pub const fn head(&self) -> u16 {
        self.head
    }

    /// Takes up the buffers of `chain`, at most `limit` of them.
    fn load(&mut self, mut chain: DescriptorChain<&GuestMemoryView>, limit: u16) -> Result<(), ChainError> {
        self.head = chain.head_index();
        self.readable.clear();
        self.writable.clear();
        for _ in 0..limit {
            let descriptor = chain.next().ok_or(ChainError::Broken)?;
            let (address, len) = (descriptor.addr(), descriptor.len() as usize);
            if descriptor.is_write_only() {
                self.writable.push(address, len).map_err(ChainError::NotMemory)?;
            } else if self.writable.is_empty() {
                self.readable.push(address, len).map_err(ChainError::NotMemory)?;
            } else {
                return Err(ChainError::WrongOrder);
            }
            if !descriptor.has_next() {
                return Ok(());
            }
        }
        Err(ChainError::TooLong)
    }
}

impl DeviceQueue {
    /// `queue` as the driver has set it up, in `memory`.
    #[must_use]
    pub fn new(queue: Queue, memory: GuestMemoryView, interrupt: Arc<DeviceInterrupt>) -> Self {
        let chain = Chain::new(&memory);
        Self { queue, memory, interrupt, chain, malformed: 0, broken: false }
    }

    /// How many requests were malformed: they were given back unanswered.
    #[must_use]
    pub const fn malformed(&self) -> u64 {
        self.malformed
    }

    /// The memory that the requests are in.
    #[must_use]
    pub const fn memory(&self) -> &GuestMemoryView {
        &self.memory
    }

    /// Serves what the driver has made available, and raises at most one interrupt for all of it.
    ///
    /// Malformed chains are given back with nothing written. Where the rings themselves make no sense, the device is
    /// marked as needing a reset.
    pub fn serve(&mut self, handle: impl FnMut(&mut Chain, &GuestMemoryView) -> Answer) -> Progress {
        if self.broken || !self.queue.ready() {
            return Progress::Drained;
        }
        self.serve_available(handle).unwrap_or_else(|error| {
            self.give_up(&error);
            Progress::Drained
        })
    }

    /// Gives a request that was [kept](Answer::Kept) back, `len` bytes of it written.
    pub fn complete(&mut self, head: u16, len: u32) {
        if self.broken {
            return;
        }
        let used = self.queue.add_used(&self.memory, head, len).map_err(QueueError::Rings);
        if let Err(error) = used.and_then(|()| self.notify()) {
            self.give_up(&error);
        }
    }

    fn serve_available(
        &mut self,
        mut handle: impl FnMut(&mut Chain, &GuestMemoryView) -> Answer,
    ) -> Result<Progress, QueueError> {
        let mut budget = u32::from(self.queue.size()) * ROUNDS;
        let mut used = false;
        let progress = 'serve: loop {
            self.queue.disable_notification(&self.memory).map_err(QueueError::Rings)?;
            loop {
                if budget == 0 {
                    break 'serve Progress::MoreToDo;
                }
                let Some(chain) = self.queue.iter(&self.memory).map_err(QueueError::Rings)?.next() else {
                    break;
                };
                budget -= 1;
                let head = chain.head_index();
                let answer = match self.chain.load(chain, self.queue.size()) {
                    Ok(()) => handle(&mut self.chain, &self.memory),
                    Err(error) => {
                        log::debug!("a request was refused: {error}");
                        self.malformed += 1;
                        Answer::Used(0)
                    }
                };
                match answer {
                    Answer::Used(len) => {
                        self.queue.add_used(&self.memory, head, len).map_err(QueueError::Rings)?;
                        used = true;
                    }
                    Answer::Kept => {}
                    Answer::NotYet => {
                        self.queue.go_to_previous_position();
                        break 'serve Progress::Drained;
                    }
                }
            }
            if !self.queue.enable_notification(&self.memory).map_err(QueueError::Rings)? {
                break Progress::Drained;
            }
        };
        if used {
            self.notify()?;
        }
        Ok(progress)
    }

    /// Interrupts the driver, if it wants to know.
    fn notify(&mut self) -> Result<(), QueueError> {
        if self.queue.needs_notification(&self.memory).map_err(QueueError::Rings)? {
            self.interrupt.queue_used();
        }
        Ok(())
    }

    fn give_up(&mut self, error: &QueueError) {
        log::warn!("a virtio device stops until the guest resets it: {error}");
        self.broken = true;
        self.interrupt.needs_reset();
    }
}

#[cfg(test)]
mod tests;
