use std::os::unix::net::UnixDatagram;

use super::*;
use crate::virtio::testing::{Buffer, DATA, Driver, survives_any_rings};

/// An interface whose tap device is one end of a pair of sockets, and the other end.
fn net() -> (Net, UnixDatagram) {
    let (tap, wire) = UnixDatagram::pair().unwrap();
    wire.set_nonblocking(true).unwrap();
    let config = NetConfig { id: "eth0".to_owned(), tap: "tap0".to_owned(), mac: Some([6, 0, 0, 0, 0, 1]) };
    (Net::over(config, Tap::over_socket(tap).unwrap()), wire)
}

struct Bench {
    driver: Driver,
    net: Net,
    wire: UnixDatagram,
}

/// Its driver has queue number `queue`.
fn bench(queue: usize) -> Bench {
    let driver = Driver::new(16);
    let (mut net, wire) = net();
    net.activate(driver.activation(queue)).unwrap();
    Bench { driver, net, wire }
}

fn packet(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[test]
fn a_packet_goes_into_the_buffers_that_wait_for_it() {
    let Bench { mut driver, mut net, wire } = bench(RECEIVE);
    driver.send(&[Buffer::write(DATA, 12), Buffer::write(DATA + 0x100, 1514)]);
    driver.send(&[Buffer::write(DATA + 0x1000, 1526)]);
    assert_eq!(net.queue_notified(RECEIVE), Progress::Drained);
    assert_eq!(driver.used(), []);

    wire.send(&packet(112)).unwrap();
    assert_eq!(net.source_ready(0), Progress::Drained);

    assert_eq!(driver.used(), [(0, 112)]);
    assert_eq!(driver.interrupts(), 1);
    let header: [u8; 12] = driver.read(DATA);
    assert_eq!(header[..10], packet(10));
    assert_eq!(header[10..], [1, 0]);
    assert_eq!(driver.read::<100>(DATA + 0x100)[..], packet(112)[12..]);
    assert_eq!(net.stats(), NetStats { rx_packets: 1, rx_bytes: 100, ..NetStats::default() });
}

#[test]
fn packets_wait_until_there_are_buffers() {
    let Bench { mut driver, mut net, wire } = bench(RECEIVE);
    for len in [20, 30] {
        wire.send(&packet(len)).unwrap();
    }
    assert_eq!(net.source_ready(0), Progress::Drained);

    driver.send(&[Buffer::write(DATA, 4)]);
    driver.send(&[Buffer::write(DATA, 1526)]);
    driver.send(&[Buffer::write(DATA, 1526)]);
    driver.send(&[Buffer::write(DATA, 1526)]);
    assert_eq!(net.queue_notified(RECEIVE), Progress::Drained);

    // The first is too small for any header.
    assert_eq!(driver.used(), [(0, 0), (1, 20), (2, 30)]);
    assert_eq!(driver.interrupts(), 1);
    assert_eq!(net.stats().malformed, 1);
}

#[test]
fn what_the_guest_sends_leaves_in_one_piece_each() {
    let Bench { mut driver, mut net, wire } = bench(TRANSMIT);
    driver.put(DATA, &packet(200));
    driver.send(&[Buffer::read(DATA, 12), Buffer::read(DATA + 12, 88), Buffer::read(DATA + 100, 10)]);
    driver.send(&[Buffer::read(DATA, 60)]);

    assert_eq!(net.queue_notified(TRANSMIT), Progress::Drained);

    let mut received = [0; 256];
    for len in [110, 60] {
        assert_eq!(wire.recv(&mut received).unwrap(), len);
        assert_eq!(received[..len], packet(len));
    }
    assert_eq!(driver.used(), [(0, 0), (3, 0)]);
    assert_eq!(net.stats(), NetStats { tx_packets: 2, tx_bytes: 98 + 48, ..NetStats::default() });
}

#[test]
fn what_is_no_packet_is_dropped() {
    let Bench { mut driver, mut net, wire } = bench(TRANSMIT);
    driver.send(&[Buffer::read(DATA, 11)]);
    driver.send(&[Buffer::read(DATA, 40_000), Buffer::read(DATA, 40_000)]);
    driver.send(&[Buffer::write(DATA, 100)]);

    assert_eq!(net.queue_notified(TRANSMIT), Progress::Drained);

    assert_eq!(driver.used().len(), 3);
    assert_eq!(net.stats().tx_dropped, 3);
    wire.recv(&mut [0; 16]).unwrap_err();
}

#[test]
fn a_wire_that_is_cut_harms_nobody() {
    let Bench { mut driver, mut net, wire } = bench(TRANSMIT);
    drop(wire);
    driver.send(&[Buffer::read(DATA, 100)]);

    assert_eq!(net.queue_notified(TRANSMIT), Progress::Drained);
    assert_eq!(net.source_ready(0), Progress::Drained);

    assert_eq!((driver.used(), net.stats().tx_dropped), (vec![(0, 0)], 1));
}

#[test]
fn the_address_is_offered_if_there_is_one() {
    let (mut net, _wire) = net();
    let mut address = [0; 6];
    net.read_config(0, &mut address);

    assert_eq!(address, [6, 0, 0, 0, 0, 1]);
    assert_ne!(net.features() & 1 << VIRTIO_NET_F_MAC, 0);
    net.config.mac = None;
    assert_eq!(net.features() & 1 << VIRTIO_NET_F_MAC, 0);
}

#[test]
fn no_descriptor_makes_it_touch_what_it_was_not_given() {
    for queue in [RECEIVE, TRANSMIT] {
        let make = |_: &Driver| {
            let (net, wire) = net();
            while wire.send(&packet(600)).is_ok() {}
            net
        };
        survives_any_rings(make, queue, &[vec![0; 12]]);
    }
}
