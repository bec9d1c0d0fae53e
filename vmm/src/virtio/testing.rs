//! A driver for tests: rings in plain guest memory, descriptors as good or as bad as the test wants them.

use std::sync::Arc;

use guest_mem::{Backing, ByteSize, GuestRam, GuestRamConfig};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::{Activation, DeviceInterrupt, Progress, VirtioDevice};
use crate::memory::Memory;

/// Where the rings of the test's queue are; data may lie from [`DATA`] on.
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x5000;
/// Where data may lie.
pub(crate) const DATA: u64 = 0x8000;
/// The guest's memory, in bytes.
pub(crate) const MEMORY: u64 = 256 << 10;

/// A buffer of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    address: u64,
    len: u32,
    write: bool,
}

/// The driver of one queue, and the guest's memory.
pub(crate) struct Driver {
    memory: Arc<Memory>,
    interrupt: Arc<DeviceInterrupt>,
    size: u16,
    next: u16,
    available: u16,
    used: u16,
    event_idx: bool,
}

/// A descriptor as it is in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Buffer {
    /// One for the device to read.
    pub(crate) const fn read(address: u64, len: u32) -> Self {
        Self { address, len, write: false }
    }

    /// One for the device to write.
    pub(crate) const fn write(address: u64, len: u32) -> Self {
        Self { address, len, write: true }
    }
}

impl Driver {
    /// Rings for `size` descriptors, in a small memory.
    pub(crate) fn new(size: u16) -> Self {
        Self::of(size, MEMORY, Backing::Anonymous)
    }

    /// The same, in `bytes` of memory of `backing`.
    pub(crate) fn of(size: u16, bytes: u64, backing: Backing) -> Self {
        let config = GuestRamConfig::new(ByteSize::new(bytes).unwrap(), backing);
        let memory = Arc::new(Memory::of(vec![Arc::new(GuestRam::create(config).unwrap())]).unwrap());
        let interrupt = Arc::new(DeviceInterrupt::new().unwrap());
        Self { memory, interrupt, size, next: 0, available: 0, used: 0, event_idx: false }
    }

    /// The same, and it says in `used_event` when it wants to be interrupted.
    pub(crate) fn with_event_idx(size: u16) -> Self {
        Self { event_idx: true, ..Self::new(size) }
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    pub(crate) fn interrupt(&self) -> &Arc<DeviceInterrupt> {
        &self.interrupt
    }

    /// The queue as the transport would hand it over.
    pub(crate) fn queue(&self) -> Queue {
        let mut queue = Queue::new(self.size).unwrap();
        queue.try_set_desc_table_address(GuestAddress(DESCRIPTORS)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(AVAILABLE)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(USED)).unwrap();
        queue.set_event_idx(self.event_idx);
        queue.set_ready(true);
        queue
    }

    /// What a device is activated with whose queue number `queue` is this driver's, and whose others are unused.
    pub(crate) fn activation(&self, queue: usize) -> Activation {
        self.activation_with(queue, u64::MAX)
    }

    /// The same, with these features.
    pub(crate) fn activation_with(&self, queue: usize, features: u64) -> Activation {
        let mut queues: Vec<_> = (0..5).map(|_| Queue::new(self.size).unwrap()).collect();
        queues[queue] = self.queue();
        Activation {
            features,
            queues,
            memory: Arc::clone(&self.memory),
            interrupt: Arc::clone(&self.interrupt),
        }
    }

    /// Makes a request of `buffers` available, and returns its head.
    pub(crate) fn send(&mut self, buffers: &[Buffer]) -> u16 {
        let head = self.next;
        for (index, buffer) in buffers.iter().enumerate() {
            let next = (self.next + 1) % self.size;
            let mut flags = if buffer.write { VRING_DESC_F_WRITE } else { 0 };
            if index + 1 < buffers.len() {
                flags |= VRING_DESC_F_NEXT;
            }
            let flags = u16::try_from(flags).unwrap();
            self.describe(self.next, Descriptor { address: buffer.address, len: buffer.len, flags, next });
            self.next = next;
        }
        self.offer(head);
        head
    }

    /// Writes a descriptor of the table.
    pub(crate) fn describe(&self, index: u16, descriptor: Descriptor) {
        self.put(DESCRIPTORS + 16 * u64::from(index), &descriptor.to_bytes());
    }

    /// Puts `head` into the ring, whatever it leads to.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = u64::from(self.available % self.size);
        self.put(AVAILABLE + 4 + 2 * slot, &head.to_le_bytes());
        self.set_available(self.available.wrapping_add(1));
    }

    /// Says that the ring goes up to `index`.
    pub(crate) fn set_available(&mut self, index: u16) {
        self.available = index;
        self.put(AVAILABLE + 2, &index.to_le_bytes());
    }

    /// Asks to be interrupted when the request after number `index` is used.
    pub(crate) fn set_used_event(&self, index: u16) {
        self.put(AVAILABLE + 4 + 2 * u64::from(self.size), &index.to_le_bytes());
    }

    /// What has been used since the last call: heads and lengths.
    pub(crate) fn used(&mut self) -> Vec<(u16, u32)> {
        let index = u16::from_le_bytes(self.read(USED + 2));
        let mut used = Vec::new();
        while self.used != index {
            let slot = USED + 4 + 8 * u64::from(self.used % self.size);
            let head = u32::from_le_bytes(self.read(slot));
            used.push((u16::try_from(head).unwrap(), u32::from_le_bytes(self.read(slot + 4))));
            self.used = self.used.wrapping_add(1);
        }
        used
    }

    /// How many times the driver was interrupted since the last call.
    pub(crate) fn interrupts(&self) -> u64 {
        self.interrupt.event().read().unwrap_or(0)
    }

    pub(crate) fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.view().write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub(crate) fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.view().read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    fn all(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(MEMORY).unwrap()];
        self.memory.view().read_slice(&mut bytes, GuestAddress(0)).unwrap();
        bytes
    }
}

impl Descriptor {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let Self { address, len, flags, next } = self;
        [&address.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
    }

    fn may_be_written(&self, address: u64) -> bool {
        u32::from(self.flags) & VRING_DESC_F_WRITE != 0
            && address.checked_sub(self.address).is_some_and(|at| at < self.len.into())
    }
}

/// Where the indirect table of [`any_rings`] is.
const INDIRECT: u64 = 0x6000;
/// Few enough that random chains meet.
const SIZE: u16 = 16;

/// What a driver that means no good puts into its rings.
#[derive(Clone, Debug)]
struct Rings {
    table: Vec<Descriptor>,
    indirect: Vec<Descriptor>,
    heads: Vec<u16>,
    /// How far the ring is said to go.
    available: u16,
    /// What the data begins with.
    header: Vec<u8>,
}

fn any_descriptor() -> impl Strategy<Value = Descriptor> {
    let address = prop_oneof![
        8 => DATA..MEMORY,
        4 => (DATA..MEMORY).prop_map(|address| address & !0xfff),
        4 => Just(DATA),
        1 => MEMORY - 8..MEMORY + 8,
        1 => any::<u64>(),
        1 => Just(u64::MAX),
    ];
    let len = prop_oneof![
        Just(0_u32),
        Just(1),
        Just(4),
        Just(12),
        Just(16),
        Just(0x100),
        Just(512),
        Just(4096),
        0..0x2000_u32,
        Just(u32::MAX)
    ];
    // A NEXT flag in two of three, so that chains come to be; few tables in place of buffers.
    let flags = (0..8_u32, 0..3_u8, 0..10_u8).prop_map(|(flags, more, table)| {
        let flags = if more > 0 { flags | VRING_DESC_F_NEXT } else { flags & !VRING_DESC_F_NEXT };
        u16::try_from(if table > 0 { flags & !VRING_DESC_F_INDIRECT } else { flags }).unwrap()
    });
    (address, len, flags, 0..SIZE + 2).prop_map(|(address, len, flags, next)| {
        // What is written over a table would make descriptors that this test knows nothing of.
        let is_table = u32::from(flags) & VRING_DESC_F_INDIRECT != 0;
        Descriptor { address: if is_table { INDIRECT } else { address }, len, flags, next }
    })
}

fn any_rings(headers: Vec<Vec<u8>>) -> impl Strategy<Value = Rings> {
    let header = if headers.is_empty() {
        vec(any::<u8>(), 64).boxed()
    } else {
        prop_oneof![proptest::sample::select(headers), vec(any::<u8>(), 64)].boxed()
    };
    let available = prop_oneof![9 => 0..=SIZE, 1 => any::<u16>()];
    (
        vec(any_descriptor(), SIZE as usize),
        vec(any_descriptor(), SIZE as usize),
        vec(0..SIZE + 2, SIZE as usize),
        available,
        header,
    )
        .prop_map(|(table, indirect, heads, available, header)| Rings {
            table,
            indirect,
            heads,
            available,
            header,
        })
}

/// Lets a device serve queue number `queue` of drivers that mean no good, and checks that it neither panics nor writes
/// anything but the used ring and what some descriptor lets it write. Pages without access before and after the
/// guest's memory see to it that nothing else is touched unnoticed.
///
/// Half of the time the data begins with one of `headers`.
#[track_caller]
pub(crate) fn survives_any_rings<D: VirtioDevice>(
    make: impl Fn(&Driver) -> D,
    queue: usize,
    headers: &[Vec<u8>],
) {
    let check = |rings: Rings| {
        let mut driver = Driver::new(SIZE);
        for (index, descriptor) in (0..).zip(&rings.table) {
            driver.describe(index, *descriptor);
        }
        let indirect: Vec<u8> = rings.indirect.iter().flat_map(|descriptor| descriptor.to_bytes()).collect();
        driver.put(INDIRECT, &indirect);
        driver.put(DATA, &rings.header);
        for head in &rings.heads {
            driver.offer(*head);
        }
        driver.set_available(rings.available);
        let before = driver.all();
        let mut device = make(&driver);
        let _refused = device.activate(driver.activation(queue));

        for _ in 0..8 {
            if device.queue_notified(queue) == Progress::Drained {
                break;
            }
        }

        // The used ring with its event, and what any descriptor allows.
        let used = USED..USED + 6 + 8 * u64::from(SIZE);
        let all = || rings.table.iter().chain(&rings.indirect);
        let after = driver.all();
        for (page, (old, new)) in (0_u64..).zip(before.chunks(4096).zip(after.chunks(4096))) {
            if old == new {
                continue;
            }
            for (address, (old, new)) in (page * 4096..).zip(old.iter().zip(new)) {
                let allowed = old == new
                    || used.contains(&address)
                    || all().any(|descriptor| descriptor.may_be_written(address));
                prop_assert!(allowed, "the device wrote to {address:#x}");
            }
        }
        Ok(())
    };
    TestRunner::default().run(&any_rings(headers.to_vec()), check).unwrap_or_else(|error| panic!("{error}"));
}
