use std::sync::Mutex;

use super::*;
use crate::virtio::{
    Progress,
    rng::Rng,
    testing::{Buffer, DATA, Driver},
};

const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

/// A device with one queue, 16 bits of features and a configuration space that can be written.
#[derive(Debug, Default)]
struct Scratch {
    space: [u8; 8],
    activated: Option<Activation>,
    resets: u32,
}

impl VirtioDevice for Scratch {
    fn device_type(&self) -> u32 {
        42
    }

    fn features(&self) -> u64 {
        0xffff
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16, 8]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        crate::virtio::device::read_space(&self.space, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let at = usize::try_from(offset).unwrap();
        self.space[at..at + data.len()].copy_from_slice(data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.activated = Some(activation);
        Ok(())
    }

    fn reset(&mut self) {
        self.activated = None;
        self.resets += 1;
    }

    fn queue_notified(&mut self, _: usize) -> Progress {
        Progress::Drained
    }
}

struct Bench {
    driver: Driver,
    device: Arc<Mutex<Scratch>>,
    transport: MmioTransport,
}

fn bench() -> Bench {
    let driver = Driver::new(16);
    let device = Arc::new(Mutex::new(Scratch::default()));
    let transport = MmioTransport::new(device.clone(), Arc::clone(driver.memory())).unwrap();
    Bench { driver, device, transport }
}

impl MmioTransport {
    fn get(&mut self, register: u32) -> u32 {
        let mut data = [0xff; 4];
        self.mmio_read(MmioAddress(0), register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn set(&mut self, register: u32, value: u32) {
        self.mmio_write(MmioAddress(0), register.into(), &value.to_le_bytes());
    }

    fn negotiate(&mut self, features: u64) {
        self.set(VIRTIO_MMIO_STATUS, ACKNOWLEDGE);
        self.set(VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER);
        for sel in [0, 1] {
            self.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, sel);
            self.set(VIRTIO_MMIO_DRIVER_FEATURES, half(features, sel));
        }
        self.set(VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    }

    fn set_up_queue(&mut self, index: u32, queue: &Queue) {
        self.set(VIRTIO_MMIO_QUEUE_SEL, index);
        self.set(VIRTIO_MMIO_QUEUE_NUM, queue.size().into());
        for (register, address) in [
            (VIRTIO_MMIO_QUEUE_DESC_LOW, queue.desc_table()),
            (VIRTIO_MMIO_QUEUE_AVAIL_LOW, queue.avail_ring()),
            (VIRTIO_MMIO_QUEUE_USED_LOW, queue.used_ring()),
        ] {
            self.set(register, half(address, 0));
            self.set(register + 4, half(address, 1));
        }
        self.set(VIRTIO_MMIO_QUEUE_READY, 1);
    }

    fn start(&mut self) {
        self.set(VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }
}

#[test]
fn the_registers_say_what_is_there() {
    let Bench { mut transport, .. } = bench();

    assert_eq!(transport.get(VIRTIO_MMIO_MAGIC_VALUE).to_le_bytes(), *b"virt");
    assert_eq!(transport.get(VIRTIO_MMIO_VERSION), 2);
    assert_eq!(transport.get(VIRTIO_MMIO_DEVICE_ID), 42);
    assert_eq!(transport.get(VIRTIO_MMIO_QUEUE_NUM_MAX), 16);
    transport.set(VIRTIO_MMIO_QUEUE_SEL, 1);
    assert_eq!(transport.get(VIRTIO_MMIO_QUEUE_NUM_MAX), 8);
    transport.set(VIRTIO_MMIO_QUEUE_SEL, 2);
    assert_eq!(transport.get(VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
    let low = transport.get(VIRTIO_MMIO_DEVICE_FEATURES);
    transport.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    let high = transport.get(VIRTIO_MMIO_DEVICE_FEATURES);
    assert_eq!((low, high), (0xffff | 1 << 28 | 1 << 29, 1));
    transport.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    assert_eq!(transport.get(VIRTIO_MMIO_DEVICE_FEATURES), 0);
}

#[test]
fn a_driver_that_goes_step_by_step_starts_the_device() {
    let Bench { driver, device, mut transport } = bench();

    transport.negotiate(VERSION_1 | 5 | 1 << VIRTIO_RING_F_EVENT_IDX);
    transport.set_up_queue(0, &driver.queue());
    assert!(device.lock().unwrap().activated.is_none());
    transport.start();

    let device = device.lock().unwrap();
    let activation = device.activated.as_ref().unwrap();
    assert_eq!(activation.features & 0xffff, 5);
    let mut expected = [driver.queue(), Queue::new(8).unwrap()];
    for queue in &mut expected {
        queue.set_event_idx(true);
    }
    assert_eq!(activation.queues, expected);
    assert_eq!(transport.status, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

#[test]
fn what_was_notified_before_the_start_is_looked_at_after_it() {
    let Bench { driver, mut transport, .. } = bench();
    transport.negotiate(VERSION_1);
    transport.set_up_queue(0, &driver.queue());
    transport.set(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    transport.queue_events()[0].read().unwrap();

    transport.start();

    assert_eq!(transport.queue_events()[0].read().unwrap(), 1);
    assert_eq!(transport.queue_events()[1].read().unwrap(), 1);
}

#[test]
fn features_that_were_not_offered_or_no_version_1_are_refused() {
    for features in [VERSION_1 | 1 << 20, 5] {
        let Bench { device, mut transport, .. } = bench();

        transport.negotiate(features);
        transport.start();

        assert_eq!(transport.get(VIRTIO_MMIO_STATUS), ACKNOWLEDGE | DRIVER);
        assert!(device.lock().unwrap().activated.is_none());
    }
}

#[test]
fn nothing_is_set_up_out_of_turn() {
    let Bench { driver, mut transport, .. } = bench();

    transport.set(VIRTIO_MMIO_STATUS, DRIVER_OK);
    transport.set_up_queue(0, &driver.queue());
    assert_eq!((transport.get(VIRTIO_MMIO_STATUS), transport.get(VIRTIO_MMIO_QUEUE_READY)), (0, 0));

    // What is ready does not change under the device.
    transport.negotiate(VERSION_1);
    transport.set_up_queue(0, &driver.queue());
    transport.set(VIRTIO_MMIO_QUEUE_NUM, 4);
    transport.start();
    transport.set(VIRTIO_MMIO_QUEUE_READY, 0);
    transport.set(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    assert_eq!(transport.get(VIRTIO_MMIO_QUEUE_READY), 1);
    assert_eq!(transport.queues[0], driver.queue());
    assert_eq!(transport.driver_features, VERSION_1);
}

#[test]
fn rings_outside_of_memory_need_a_reset() {
    let Bench { device, mut transport, driver } = bench();
    let mut queue = driver.queue();
    queue.set_used_ring_address(Some(0xffff_fff0), Some(0xffff_ffff));

    transport.negotiate(VERSION_1);
    transport.set_up_queue(0, &queue);
    transport.start();

    assert!(device.lock().unwrap().activated.is_none());
    assert_ne!(transport.get(VIRTIO_MMIO_STATUS) & NEEDS_RESET, 0);
    assert_eq!(transport.get(VIRTIO_MMIO_INTERRUPT_STATUS), 2);
    transport.set(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(transport.get(VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn a_reset_starts_all_over() {
    let Bench { driver, device, mut transport } = bench();
    for round in 1..=2 {
        transport.negotiate(VERSION_1);
        transport.set_up_queue(0, &driver.queue());
        transport.start();
        assert!(device.lock().unwrap().activated.is_some());
        transport.set(VIRTIO_MMIO_STATUS, 0);
        assert!(device.lock().unwrap().activated.is_none());
        assert_eq!(device.lock().unwrap().resets, round);
        assert_eq!(transport.queues, [Queue::new(16).unwrap(), Queue::new(8).unwrap()]);
    }
}

#[test]
fn the_configuration_space_is_read_and_written_at_any_width() {
    let Bench { device, mut transport, .. } = bench();
    device.lock().unwrap().space = [1, 2, 3, 4, 5, 6, 7, 8];
    let read = |transport: &mut MmioTransport, offset, len| {
        let mut data = vec![0xff; len];
        transport.mmio_read(MmioAddress(0), offset, &mut data);
        data
    };

    assert_eq!(read(&mut transport, CONFIG + 1, 1), [2]);
    assert_eq!(read(&mut transport, CONFIG + 6, 4), [7, 8, 0, 0]);
    transport.mmio_write(MmioAddress(0), CONFIG, &[9]);
    assert_eq!(read(&mut transport, CONFIG, 8), [1, 2, 3, 4, 5, 6, 7, 8]);
    transport.negotiate(VERSION_1);
    transport.mmio_write(MmioAddress(0), CONFIG + 2, &[9, 9]);

    assert_eq!(read(&mut transport, CONFIG, 8), [1, 2, 9, 9, 5, 6, 7, 8]);
    // Registers are four bytes wide, whatever the guest tries.
    assert_eq!(read(&mut transport, 0, 8), [0; 8]);
    assert_eq!(read(&mut transport, 1, 4), [0; 4]);
    transport.mmio_write(MmioAddress(0), VIRTIO_MMIO_STATUS.into(), &[0, 0]);
    assert_ne!(transport.get(VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn a_notification_by_mmio_raises_the_event_of_its_queue() {
    let Bench { mut transport, .. } = bench();

    transport.set(VIRTIO_MMIO_QUEUE_NOTIFY, 1);
    transport.set(VIRTIO_MMIO_QUEUE_NOTIFY, 2);
    transport.set(VIRTIO_MMIO_QUEUE_NOTIFY, u32::MAX);

    assert_eq!(transport.queue_events()[1].read().unwrap(), 1);
    transport.queue_events()[0].read().unwrap_err();
}

#[test]
fn an_interrupt_is_seen_and_acknowledged_through_the_registers() {
    let mut driver = Driver::new(16);
    let rng = Arc::new(Mutex::new(Rng::new()));
    let mut transport = MmioTransport::new(rng.clone(), Arc::clone(driver.memory())).unwrap();
    transport.negotiate(VERSION_1);
    transport.set_up_queue(0, &driver.queue());
    transport.start();
    driver.send(&[Buffer::write(DATA, 8)]);

    assert_eq!(rng.lock().unwrap().queue_notified(0), Progress::Drained);

    assert_eq!(transport.interrupt_event().read().unwrap(), 1);
    assert_eq!(transport.get(VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    transport.set(VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!(transport.get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    assert_eq!(driver.used(), [(0, 8)]);
}
