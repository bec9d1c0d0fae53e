use super::*;
use crate::virtio::testing::{Buffer, DATA, Descriptor, Driver, MEMORY};

fn queue(driver: &Driver) -> DeviceQueue {
    DeviceQueue::new(driver.queue(), driver.memory().view().clone(), Arc::clone(driver.interrupt()))
}

/// Serves everything, and says what each request could read and write.
fn serve(queue: &mut DeviceQueue) -> Vec<(usize, usize)> {
    let mut seen = Vec::new();
    let progress = queue.serve(|chain, _| {
        seen.push((chain.readable.len(), chain.writable.len()));
        Answer::Used(7)
    });
    assert_eq!(progress, Progress::Drained);
    seen
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const TABLE: u16 = 4;

fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { address, len, flags, next }
}

#[test]
fn a_batch_is_answered_with_one_interrupt() {
    let mut driver = Driver::new(16);
    let mut queue = queue(&driver);
    for _ in 0..5 {
        driver.send(&[Buffer::read(DATA, 16), Buffer::write(DATA, 32), Buffer::write(DATA, 1)]);
    }

    assert_eq!(serve(&mut queue), [(16, 33); 5]);

    assert_eq!(driver.used(), [(0, 7), (3, 7), (6, 7), (9, 7), (12, 7)]);
    assert_eq!(driver.interrupts(), 1);
    assert_eq!(serve(&mut queue), []);
    assert_eq!(driver.interrupts(), 0);
}

#[test]
fn a_driver_is_interrupted_when_it_said_it_wants_to_be() {
    let mut driver = Driver::with_event_idx(16);
    let mut queue = queue(&driver);

    // Not before three requests have been used.
    driver.set_used_event(2);
    driver.send(&[Buffer::read(DATA, 1)]);
    driver.send(&[Buffer::read(DATA, 1)]);
    serve(&mut queue);
    assert_eq!(driver.interrupts(), 0);
    driver.send(&[Buffer::read(DATA, 1)]);
    serve(&mut queue);

    assert_eq!(driver.interrupts(), 1);
    assert_eq!(driver.used().len(), 3);
}

#[test]
fn the_rings_wrap() {
    let mut driver = Driver::new(4);
    let mut queue = queue(&driver);

    for round in 0..40_u16 {
        driver.send(&[Buffer::read(DATA, 3)]);
        assert_eq!(serve(&mut queue), [(3, 0)]);
        assert_eq!(driver.used(), [(round % 4, 7)]);
    }
}

#[test]
fn what_cannot_be_served_yet_stays_and_comes_again() {
    let mut driver = Driver::new(16);
    let mut queue = queue(&driver);
    driver.send(&[Buffer::write(DATA, 8)]);
    driver.send(&[Buffer::write(DATA, 9)]);

    assert_eq!(queue.serve(|_, _| Answer::NotYet), Progress::Drained);

    assert_eq!(driver.used(), []);
    assert_eq!(serve(&mut queue), [(0, 8), (0, 9)]);
}

#[test]
fn a_kept_request_is_completed_later() {
    let mut driver = Driver::new(16);
    let mut queue = queue(&driver);
    let head = driver.send(&[Buffer::read(DATA, 8)]);

    assert_eq!(queue.serve(|_, _| Answer::Kept), Progress::Drained);
    assert_eq!((driver.used(), driver.interrupts()), (vec![], 0));
    queue.complete(head, 0);

    assert_eq!((driver.used(), driver.interrupts()), (vec![(head, 0)], 1));
}

#[test]
fn a_driver_that_never_stops_does_not_keep_the_thread() {
    let mut driver = Driver::new(4);
    let mut queue = queue(&driver);
    driver.send(&[Buffer::read(DATA, 1)]);
    let mut served = 0;

    let progress = queue.serve(|_, _| {
        served += 1;
        driver.send(&[Buffer::read(DATA, 1)]);
        Answer::Used(0)
    });

    assert_eq!((progress, served), (Progress::MoreToDo, 16));
}

#[test]
fn malformed_chains_are_given_back_and_counted() {
    let mut driver = Driver::new(16);
    let mut queue = queue(&driver);
    // A loop, a way out of the table, no memory, the wrong order, a table in a table.
    driver.describe(0, descriptor(DATA, 1, NEXT, 0));
    driver.describe(1, descriptor(DATA, 1, NEXT, 16));
    driver.describe(2, descriptor(MEMORY - 1, 2, 0, 0));
    driver.describe(3, descriptor(DATA, 1, WRITE | NEXT, 4));
    driver.describe(4, descriptor(DATA, 1, 0, 0));
    driver.describe(5, descriptor(DATA, 16, TABLE, 0));
    driver.put(DATA, &descriptor(DATA, 16, TABLE, 0).to_bytes());
    for head in [0, 1, 2, 3, 5] {
        driver.offer(head);
    }

    assert_eq!(serve(&mut queue), []);

    assert_eq!(driver.used(), [(0, 0), (1, 0), (2, 0), (3, 0), (5, 0)]);
    assert_eq!(queue.malformed(), 5);
    assert!(!driver.interrupt().is_reset_needed());
}

#[test]
fn a_table_may_hold_as_much_as_the_queue_and_no_more() {
    let mut driver = Driver::new(4);
    let mut queue = queue(&driver);
    let table = |len: u16| {
        (0..len).flat_map(move |index| {
            descriptor(DATA, 1, if index + 1 < len { NEXT } else { 0 }, index + 1).to_bytes()
        })
    };
    driver.put(DATA + 0x1000, &table(4).collect::<Vec<_>>());
    driver.put(DATA + 0x2000, &table(5).collect::<Vec<_>>());
    driver.describe(0, descriptor(DATA + 0x1000, 4 * 16, TABLE, 0));
    driver.describe(1, descriptor(DATA + 0x2000, 5 * 16, TABLE, 0));
    driver.offer(0);
    driver.offer(1);

    assert_eq!(serve(&mut queue), [(4, 0)]);

    assert_eq!(driver.used(), [(0, 7), (1, 0)]);
}

#[test]
fn rings_that_make_no_sense_stop_the_queue_until_a_reset() {
    let mut driver = Driver::new(16);
    let mut queue = queue(&driver);
    driver.set_available(17);

    assert_eq!(serve(&mut queue), []);
    assert!(driver.interrupt().is_reset_needed());
    driver.set_available(1);
    assert_eq!(serve(&mut queue), []);
    queue.complete(0, 0);

    assert_eq!(driver.used(), []);
}

#[test]
fn a_head_outside_of_the_table_stops_the_queue() {
    let mut driver = Driver::new(16);
    let mut queue = queue(&driver);
    driver.offer(16);

    assert_eq!(serve(&mut queue), []);

    assert!(driver.interrupt().is_reset_needed());
}
