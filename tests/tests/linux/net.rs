//! Linux and its network interface: pings and datagrams through a tap device, in a network namespace of the test's own.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use guest_mem::{Backing, ByteSize};
use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt,
        socket, sockopt::ReceiveTimeout,
    },
    time::{TimeVal, TimeValLike},
};
use underlay_tests::{Need, Suite, TAP, in_own_network, ip};
use vmm::{
    memory::MemoryConfig,
    microvm::Ending,
    virtio::net::{Net, NetConfig, OpenTapError, Tap},
};

use super::support::{Guest, M};

const HOST: &str = "172.31.0.1/30";
const GUEST: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 2);
const MAC: [u8; 6] = [6, 0, 0, 0, 0, 1];
/// How long an answer may take where the guest's kernel is emulated on a busy host.
const PATIENCE: i64 = 20;

pub(crate) fn add_to(suite: &mut Suite) {
    let needs = [Need::Kvm, Need::Linux, Need::Root, Need::Program("ip")];
    for backing in [Backing::Anonymous, Backing::Managed4kb] {
        let more = backing.is_managed().then_some(Need::ManagedFaults);
        let needs: Vec<_> = needs.into_iter().chain(more).collect();
        let name = format!("net::{backing}::a_guest_answers_through_a_tap_device");
        suite.test(name, &needs, move || with_tap_up(|| answered(backing)));
    }
    let needs = [Need::Root, Need::Program("ip")];
    suite.test("net::a_tap_device_that_cannot_be_had_is_refused_with_its_reason", &needs, || {
        with_tap_up(refused);
    });
}

/// Runs `test` where it has a tap device that is up.
#[track_caller]
fn with_tap_up(test: impl FnOnce() + Send + 'static) {
    in_own_network(|| {
        ip(&["address", "add", HOST, "dev", TAP]);
        ip(&["link", "set", TAP, "up"]);
        test();
    });
}

fn config() -> NetConfig {
    NetConfig { id: "eth0".to_owned(), tap: TAP.to_owned(), mac: Some(MAC) }
}

fn answered(backing: Backing) {
    let net = Arc::new(Mutex::new(Net::new(config()).unwrap()));
    let attached = net.clone();
    let tests = format!("net:{GUEST}/30");
    let memory = MemoryConfig::new(ByteSize::new(64 * M).unwrap(), backing);
    let guest = Guest::boot_with(memory, 1, &tests, |vm| {
        vm.attach(attached).unwrap();
    });
    guest.wait_for("echo_port=7", 1);
    assert!(guest.text().contains("mac=06:00:00:00:00:01"), "{}", guest.text());

    // The first has to wait for the guest's address.
    for number in 1..=5 {
        ping(number);
    }
    let echo = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    echo.set_read_timeout(Some(Duration::from_secs(PATIENCE.unsigned_abs()))).unwrap();
    echo.connect(SocketAddrV4::new(GUEST, 7)).unwrap();
    for len in [1, 100, 1472] {
        let sent: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut received = [0; 2048];
        echo.send(&sent).unwrap();
        let len = echo.recv(&mut received).unwrap();
        assert_eq!(received[..len], sent);
    }
    echo.send(b"quit").unwrap();

    let (ending, text) = guest.finish();
    assert!(matches!(ending, Ending::Exited(0)), "{ending:?}\n{text}");
    let stats = net.lock().unwrap().stats();
    assert!(stats.rx_packets >= 9 && stats.tx_packets >= 9, "{stats:?}");
    assert_eq!((stats.malformed, stats.rx_failed, stats.tx_dropped), (0, 0, 0), "{stats:?}");
}

/// Sends an ICMP echo request and waits for its answer.
#[track_caller]
fn ping(number: u8) {
    let mut request = vec![8, 0, 0, 0, 0x75, 0x64, 0, number];
    request.extend([number; 56]);
    let [high, low] = checksum(&request).to_be_bytes();
    request[2] = high;
    request[3] = low;
    let raw: OwnedFd =
        socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp).unwrap();
    setsockopt(&raw, ReceiveTimeout, &TimeVal::seconds(PATIENCE)).unwrap();

    let guest = SockaddrIn::from(SocketAddrV4::new(GUEST, 0));
    sendto(raw.as_raw_fd(), &request, &guest, MsgFlags::empty()).unwrap();

    loop {
        let mut packet = [0; 256];
        let len = recv(raw.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap();
        // Behind 20 bytes of IP.
        let answer = &packet[20..len];
        if answer[0] == 0 {
            assert_eq!(answer[4..], request[4..]);
            assert_eq!(checksum(answer), 0);
            return;
        }
    }
}

/// The Internet's checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum >> 16) + (sum & 0xffff);
    !u16::try_from((folded >> 16) + (folded & 0xffff)).unwrap()
}

fn refused() {
    let first = Net::new(config()).unwrap();
    let busy = Net::new(config()).unwrap_err();
    let no_tap = Tap::open("lo", 12).unwrap_err();
    let missing = Tap::open("tap-missing", 12).unwrap_err();
    drop(first);

    assert!(matches!(busy, OpenTapError::Busy { .. }), "{busy:?}");
    assert!(matches!(no_tap, OpenTapError::NotATap { .. }), "{no_tap:?}");
    assert!(matches!(missing, OpenTapError::Missing { .. }), "{missing:?}");
    let left = Command::new("ip").args(["-o", "link"]).output().unwrap();
    assert!(!String::from_utf8(left.stdout).unwrap().contains("tap-missing"));
    Net::new(config()).unwrap();
}
