//! What the fuzz targets share: a driver whose every step is the fuzzer's choice.

use std::sync::{Arc, Mutex};

use arbitrary::Arbitrary;
use guest_mem::{Backing, ByteSize, GuestRam, GuestRamConfig};
use vm_device::{MutDeviceMmio, bus::MmioAddress};
use vm_memory::{Bytes, GuestAddress};
use vmm::{
    memory::Memory,
    virtio::{MmioTransport, Progress, VirtioDevice},
};

/// The guest's memory, in bytes: rings and tables at its beginning.
const MEMORY: u64 = 64 << 10;
const AVAILABLE: u64 = 0x200;
const USED: u64 = 0x300;
const SIZE: u32 = 16;
/// Each queue has so many bytes for its rings.
const RINGS: u64 = 0x400;
const QUEUES: u64 = 5;
/// Indirect tables and data.
const DATA: u64 = RINGS * QUEUES;

/// What a driver does next.
#[derive(Arbitrary, Debug)]
pub enum Step {
    /// Writes a descriptor of a queue's table, or of an indirect one.
    Describe { table: u8, index: u8, address: Address, len: Length, flags: u8, next: u8 },
    /// Puts a head into the ring.
    Offer { queue: u8, head: u8 },
    /// Says how far the ring goes.
    SetAvailable { queue: u8, index: u16 },
    /// Writes data.
    Write { at: u16, bytes: [u8; 16] },
    /// Lets the device serve a queue.
    Notify { queue: u8 },
    /// Something of the device's own has become readable.
    Source,
    /// Any access to any register.
    Register { offset: u16, value: u32, width: u8, write: bool },
    /// Starts over.
    Reset,
}

/// An address that is often memory.
#[derive(Arbitrary, Debug)]
pub enum Address {
    /// Data.
    Near(u16),
    /// Anything.
    Any(u64),
}

/// A length that is often small.
#[derive(Arbitrary, Debug)]
pub enum Length {
    /// Up to 64 KiB.
    Short(u16),
    /// As a header of a disk's, of a packet's.
    Sixteen,
    Twelve,
    One,
    Sector,
    /// Anything.
    Any(u32),
}

/// Takes `steps` against `device`.
pub fn drive<D: VirtioDevice + 'static>(device: D, steps: &[Step]) {
    let config = GuestRamConfig::new(ByteSize::new(MEMORY).expect("not zero"), Backing::Anonymous);
    let ram = GuestRam::create(config).expect("there is memory");
    let memory = Arc::new(Memory::of(vec![Arc::new(ram)]).expect("one RAM"));
    let device = Arc::new(Mutex::new(device));
    let mut transport = MmioTransport::new(device.clone(), Arc::clone(&memory)).expect("there are eventfds");
    start(&mut transport);
    let mut available = [0_u16; QUEUES as usize];
    for step in steps {
        take(step, &mut transport, &device, &memory, &mut available);
    }
}

fn take<D: VirtioDevice>(
    step: &Step,
    transport: &mut MmioTransport,
    device: &Mutex<D>,
    memory: &Memory,
    available: &mut [u16; QUEUES as usize],
) {
    let put = |at: u64, bytes: &[u8]| {
        let _outside = memory.view().write(bytes, GuestAddress(at));
    };
    let queue_of = |queue: u8| u64::from(queue) % QUEUES;
    match step {
        Step::Describe { table, index, address, len, flags, next } => {
            // The last table is in the data.
            let table = u64::from(*table) % (QUEUES + 1) * RINGS;
            let at = table + u64::from(*index) % u64::from(SIZE) * 16;
            let address = match address {
                Address::Near(address) => u64::from(*address),
                Address::Any(address) => *address,
            };
            let len = match len {
                Length::Short(len) => (*len).into(),
                Length::Sixteen => 16,
                Length::Twelve => 12,
                Length::One => 1,
                Length::Sector => 512,
                Length::Any(len) => *len,
            };
            put(at, &address.to_le_bytes());
            put(at + 8, &len.to_le_bytes());
            put(at + 12, &u16::from(flags & 7).to_le_bytes());
            put(at + 14, &u16::from(*next % 18).to_le_bytes());
        }
        Step::Offer { queue, head } => {
            let queue = queue_of(*queue);
            let index = &mut available[queue as usize];
            put(queue * RINGS + AVAILABLE + 4 + 2 * u64::from(*index % SIZE as u16), &[*head % 18, 0]);
            *index = index.wrapping_add(1);
            put(queue * RINGS + AVAILABLE + 2, &index.to_le_bytes());
        }
        Step::SetAvailable { queue, index } => {
            let queue = queue_of(*queue);
            available[queue as usize] = *index;
            put(queue * RINGS + AVAILABLE + 2, &index.to_le_bytes());
        }
        Step::Write { at, bytes } => put(DATA + u64::from(*at) % (MEMORY - DATA), bytes),
        Step::Notify { queue } => serve(|device: &mut D| device.queue_notified((*queue).into()), device),
        Step::Source => serve(|device: &mut D| device.source_ready(0), device),
        Step::Register { offset, value, width, write } => {
            let mut data = value.to_le_bytes();
            let data = &mut data[..usize::from(*width % 5)];
            let offset = u64::from(*offset % 0x200);
            if *write {
                transport.mmio_write(MmioAddress(0), offset, data);
            } else {
                transport.mmio_read(MmioAddress(0), offset, data);
            }
        }
        Step::Reset => {
            *available = [0; QUEUES as usize];
            transport.mmio_write(MmioAddress(0), 0x70, &[0; 4]);
            start(transport);
        }
    }
}

fn serve<D>(mut once: impl FnMut(&mut D) -> Progress, device: &Mutex<D>) {
    for _ in 0..4 {
        if once(&mut device.lock().expect("nothing panics")) == Progress::Drained {
            break;
        }
    }
}

/// Sets the device up as a driver does that accepts everything.
fn start(transport: &mut MmioTransport) {
    let mut set = |register: u64, value: u32| {
        transport.mmio_write(MmioAddress(0), register, &value.to_le_bytes());
    };
    let (status, features_sel, features) = (0x70, 0x24, 0x20);
    set(status, 1);
    set(status, 3);
    let mut offered = [0; 2];
    for sel in [0, 1] {
        let mut bytes = [0; 4];
        transport.mmio_write(MmioAddress(0), 0x14, &u32::to_le_bytes(sel));
        transport.mmio_read(MmioAddress(0), 0x10, &mut bytes);
        offered[sel as usize] = u32::from_le_bytes(bytes);
    }
    let mut set = |register: u64, value: u32| {
        transport.mmio_write(MmioAddress(0), register, &value.to_le_bytes());
    };
    for sel in [0, 1] {
        set(features_sel, sel);
        set(features, offered[sel as usize]);
    }
    set(status, 0xb);
    for queue in 0..QUEUES {
        let base = u32::try_from(queue * RINGS).expect("small");
        set(0x30, u32::try_from(queue).expect("small"));
        set(0x38, SIZE);
        for (register, at) in [(0x80, 0), (0x90, AVAILABLE), (0xa0, USED)] {
            set(register, base + u32::try_from(at).expect("small"));
            set(register + 4, 0);
        }
        set(0x44, 1);
    }
    set(status, 0xf);
}
