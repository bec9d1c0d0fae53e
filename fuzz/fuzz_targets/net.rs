//! A network interface, over a socket that has packets of every length.
#![no_main]

use std::os::unix::net::UnixDatagram;

use libfuzzer_sys::{arbitrary, fuzz_target};
use underlay_fuzz::{Step, drive};
use vmm::virtio::net::{Net, NetConfig, Tap};

#[derive(arbitrary::Arbitrary, Debug)]
struct Input {
    packets: Vec<u16>,
    steps: Vec<Step>,
}

fuzz_target!(|input: Input| {
    let (tap, wire) = UnixDatagram::pair().expect("there are sockets");
    wire.set_nonblocking(true).expect("a socket");
    for len in input.packets {
        let _full = wire.send(&vec![0x5a; len.into()]);
    }
    let config = NetConfig { id: "eth0".to_owned(), tap: "tap0".to_owned(), mac: Some([6, 0, 0, 0, 0, 1]) };
    drive(Net::over(config, Tap::over_socket(tap).expect("a socket")), &input.steps);
});
