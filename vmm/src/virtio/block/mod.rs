//! A disk: a file or a block device of the host's (virtio 1.2, section 5.2).
//!
//! Requests are served synchronously, straight between the file and guest memory by vectored calls, as many as there
//! are for one interrupt.

mod config;
mod direct;
mod disk;
mod request;

pub use config::{Cache, DriveConfig};
pub use disk::{Disk, OpenDiskError};

use std::{path::Path, sync::Arc};

use guest_mem::GuestMemoryView;
use virtio_bindings::{
    virtio_blk::{
        VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
        VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
    },
    virtio_ids::VIRTIO_ID_BLOCK,
};
use vm_memory::Bytes;

use super::{
    ActivateError, Activation, Answer, Chain, DeviceInterrupt, DeviceQueue, Progress, VirtioDevice,
    device::read_space,
};
use crate::memory::Memory;
use request::{Outcome, Request, Sectors};

/// The unit of addresses and lengths, in bytes.
pub const SECTOR: u64 = 512;
const QUEUE_SIZES: [u16; 1] = [256];
/// Buffers of data in one request: what the queue has room for, without header and status.
const MAX_SEGMENTS: u32 = 254;

/// What a disk has done, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockStats {
    /// Requests to read.
    pub reads: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Requests to write.
    pub writes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// Requests to make what was written durable.
    pub flushes: u64,
    /// Requests to discard or to write zeroes.
    pub discards: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that were malformed.
    pub malformed: u64,
}

/// The device.
#[derive(Debug)]
pub struct Block {
    config: DriveConfig,
    disk: Disk,
    active: Option<Active>,
    stats: BlockStats,
}

/// What there is while a driver is.
#[derive(Debug)]
struct Active {
    requests: DeviceQueue,
    memory: Arc<Memory>,
    interrupt: Arc<DeviceInterrupt>,
    /// The driver cannot ask for a flush, so each write is one.
    write_through: bool,
}

impl Block {
    /// Opens and locks the disk of `config`.
    ///
    /// # Errors
    /// [`OpenDiskError`].
    pub fn new(config: DriveConfig) -> Result<Self, OpenDiskError> {
        let disk = Disk::open(&config.path, config.read_only, config.direct)?;
        Ok(Self { config, disk, active: None, stats: BlockStats::default() })
    }

    /// What it was made of.
    #[must_use]
    pub const fn config(&self) -> &DriveConfig {
        &self.config
    }

    /// The bytes that the guest sees.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.disk.size()
    }

    /// What it has done.
    #[must_use]
    pub fn stats(&self) -> BlockStats {
        let malformed = self.active.as_ref().map_or(0, |active| active.requests.malformed());
        BlockStats { malformed: self.stats.malformed + malformed, ..self.stats }
    }

    /// Puts another file in place of the disk's, or the same one again, whose size may have changed; tells the driver.
    ///
    /// # Errors
    /// [`OpenDiskError`]; the disk stays as it is then.
    pub fn replace(&mut self, path: &Path) -> Result<(), OpenDiskError> {
        self.disk.replace(path, self.config.read_only, self.config.direct)?;
        path.clone_into(&mut self.config.path);
        if let Some(active) = &self.active {
            active.interrupt.config_changed();
        }
        Ok(())
    }

    fn config_space(&self) -> [u8; 60] {
        let mut space = [0; 60];
        let mut put = |at: usize, bytes: &[u8]| {
            for (to, from) in space.iter_mut().skip(at).zip(bytes) {
                *to = *from;
            }
        };
        put(0, &(self.disk.size() / SECTOR).to_le_bytes());
        put(12, &MAX_SEGMENTS.to_le_bytes());
        put(20, &self.disk.block_size().to_le_bytes());
        put(34, &1_u16.to_le_bytes());
        // The same limits for a discard and for zeroes: sectors, ranges, and for the first the alignment.
        let alignment = u64::from(self.disk.block_size()) / SECTOR;
        put(36, &Sectors::MOST.to_le_bytes());
        put(40, &Sectors::MOST_RANGES.to_le_bytes());
        put(44, &u32::try_from(alignment).unwrap_or(1).to_le_bytes());
        put(48, &Sectors::MOST.to_le_bytes());
        put(52, &Sectors::MOST_RANGES.to_le_bytes());
        put(56, &[1]);
        space
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let mut features = 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE;
        if self.config.read_only {
            features |= 1 << VIRTIO_BLK_F_RO;
        } else {
            features |= 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
        }
        if self.config.cache == Cache::Writeback {
            features |= 1 << VIRTIO_BLK_F_FLUSH;
        }
        features
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.config_space(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let can_flush = activation.features & 1 << VIRTIO_BLK_F_FLUSH != 0;
        let memory = Arc::clone(&activation.memory);
        let interrupt = Arc::clone(&activation.interrupt);
        let requests =
            activation.into_queues().into_iter().next().ok_or(ActivateError::QueueMissing { queue: 0 })?;
        let write_through = self.config.cache == Cache::Writeback && !can_flush;
        self.active = Some(Active { requests, memory, interrupt, write_through });
        Ok(())
    }

    fn reset(&mut self) {
        self.stats = self.stats();
        self.active = None;
    }

    fn queue_notified(&mut self, _: usize) -> Progress {
        let Some(active) = &mut self.active else { return Progress::Drained };
        let mut server = Server {
            id: &self.config.id,
            disk: &mut self.disk,
            memory: &active.memory,
            write_through: active.write_through,
            stats: &mut self.stats,
        };
        active.requests.serve(|chain, view| server.answer(chain, view))
    }
}

/// What serving one batch of requests needs.
struct Server<'a> {
    id: &'a str,
    disk: &'a mut Disk,
    memory: &'a Memory,
    write_through: bool,
    stats: &'a mut BlockStats,
}

impl Server<'_> {
    /// Serves a request, and puts its status where the driver looks for it.
    fn answer(&mut self, chain: &mut Chain, view: &GuestMemoryView) -> Answer {
        let Some(status) = chain.writable.take_last_byte() else {
            self.stats.malformed += 1;
            return Answer::Used(0);
        };
        let wanted = chain.writable.len();
        let outcome = self.serve(chain);
        if outcome == Outcome::Failed {
            self.stats.failed += 1;
        }
        // What was loaded as a buffer is memory.
        let _written = view.write_obj(outcome.status(), status);
        // The bytes from the front: the status counts if there is no gap before it.
        let left = chain.writable.len();
        let written = wanted - left + usize::from(left == 0);
        Answer::Used(u32::try_from(written).unwrap_or(u32::MAX))
    }

    fn serve(&mut self, chain: &mut Chain) -> Outcome {
        let request = match Request::parse(&mut chain.readable, &chain.writable) {
            Ok(request) => request,
            Err(outcome) => return outcome,
        };
        let served = match request {
            Request::Read { offset, len } => self.disk.check(offset, len).and_then(|()| {
                self.stats.reads += 1;
                self.stats.read_bytes += len;
                self.disk.read(&mut chain.writable, offset, self.memory)
            }),
            Request::Write { offset, len } => self.disk.check(offset, len).and_then(|()| {
                self.stats.writes += 1;
                self.stats.written_bytes += len;
                self.disk.write(&mut chain.readable, offset, self.memory)?;
                if self.write_through { self.disk.flush() } else { Ok(()) }
            }),
            Request::Flush => {
                self.stats.flushes += 1;
                self.disk.flush()
            }
            Request::Discard => return self.discard(chain, false),
            Request::WriteZeroes => return self.discard(chain, true),
            Request::GetId => {
                let mut id = [0; 20];
                for (to, from) in id.iter_mut().zip(self.id.bytes()) {
                    *to = from;
                }
                let len = chain.writable.len().min(id.len());
                let _fits = chain.writable.write_all(id.get(..len).unwrap_or_default());
                Ok(())
            }
        };
        Outcome::of(self.id, served)
    }

    /// Discards the ranges that the request lists, or writes zeroes there.
    fn discard(&mut self, chain: &mut Chain, zeroes: bool) -> Outcome {
        self.stats.discards += 1;
        let (mut ranges, count) = match Sectors::parse(&mut chain.readable, zeroes) {
            Ok(parsed) => parsed,
            Err(outcome) => return outcome,
        };
        for range in ranges.iter_mut().take(count) {
            let done = self.disk.check(range.offset, range.len).and_then(|()| {
                if zeroes && !range.unmap {
                    self.disk.write_zeroes(range.offset, range.len)
                } else {
                    self.disk.punch_hole(range.offset, range.len, zeroes)
                }
            });
            if !matches!(done, Ok(())) {
                return Outcome::of(self.id, done);
            }
        }
        // A write, if not of data: it is as durable as one.
        if zeroes && self.write_through {
            return Outcome::of(self.id, self.disk.flush());
        }
        Outcome::Done
    }
}

#[cfg(test)]
mod tests;
