use std::sync::Mutex;

use event_manager::{EventManager, SubscriberOps};

use super::*;
use crate::virtio::{ActivateError, Activation, VirtioDevice};

/// Counts what it is told, and leaves some of it undone.
#[derive(Debug)]
struct Counter {
    source: EventFd,
    queues: [u32; 2],
    sources: u32,
    unfinished: u32,
}

impl VirtioDevice for Counter {
    fn device_type(&self) -> u32 {
        0
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[1, 1]
    }

    fn read_config(&self, _: u64, _: &mut [u8]) {}

    fn activate(&mut self, _: Activation) -> Result<(), ActivateError> {
        Ok(())
    }

    fn reset(&mut self) {}

    fn queue_notified(&mut self, queue: usize) -> Progress {
        self.queues[queue] += 1;
        self.progress()
    }

    fn sources(&self) -> Vec<RawFd> {
        vec![self.source.as_raw_fd()]
    }

    fn source_ready(&mut self, source: usize) -> Progress {
        assert_eq!(source, 0);
        self.sources += 1;
        self.progress()
    }
}

impl Counter {
    fn progress(&mut self) -> Progress {
        if self.unfinished == 0 {
            return Progress::Drained;
        }
        self.unfinished -= 1;
        Progress::MoreToDo
    }
}

struct Loop {
    device: Arc<Mutex<Counter>>,
    kicks: Kicks,
    manager: EventManager<DeviceEvents>,
}

fn event_loop(unfinished: u32) -> Loop {
    let source = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let device = Arc::new(Mutex::new(Counter { source, queues: [0; 2], sources: 0, unfinished }));
    let kicks = make_kicks(2).unwrap();
    let mut manager = EventManager::new().unwrap();
    manager.add_subscriber(DeviceEvents::new(device.clone(), Arc::clone(&kicks)).unwrap());
    Loop { device, kicks, manager }
}

impl Loop {
    /// Runs until nothing is left to do, and returns how often each queue and the source were told.
    fn run(&mut self) -> ([u32; 2], u32) {
        while self.manager.run_with_timeout(0).unwrap() > 0 {}
        let device = self.device.lock().unwrap();
        (device.queues, device.sources)
    }
}

#[test]
fn each_queue_is_told_once_for_its_kicks() {
    let mut events = event_loop(0);

    events.kicks[1].write(1).unwrap();
    events.kicks[1].write(1).unwrap();

    assert_eq!(events.run(), ([0, 1], 0));
}

#[test]
fn a_source_that_nobody_reads_is_told_once() {
    let mut events = event_loop(0);

    events.device.lock().unwrap().source.write(1).unwrap();

    assert_eq!(events.run(), ([0, 0], 1));
}

#[test]
fn what_is_not_finished_comes_again() {
    let mut events = event_loop(3);
    events.kicks[0].write(1).unwrap();
    assert_eq!(events.run(), ([4, 0], 0));

    events.device.lock().unwrap().unfinished = 2;
    events.device.lock().unwrap().source.write(1).unwrap();
    assert_eq!(events.run(), ([4, 0], 3));
}
