//! The test of the network device: an address, pings answered by Linux, and datagrams sent back.

use core::net::{Ipv4Addr, SocketAddrV4};

use rustix::event::{self, PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketType};

use crate::console::say;
use crate::machine;
use crate::outcome::Failure;
use crate::script::Arguments;

/// Datagrams to this port come back; one that says `quit` ends the test.
const ECHO_PORT: u16 = 7;

/// `net:ADDRESS/PREFIX[:SECONDS]`: configures eth0 and serves until told to quit or the time is over.
pub(crate) fn serve(arguments: &mut Arguments) -> Result<(), Failure> {
    let usage = Failure::Usage("net:ADDRESS/PREFIX");
    let Some((address, prefix)) = arguments.text().and_then(|text| text.split_once('/')) else {
        return Err(usage);
    };
    let (Ok(address), Ok(prefix)) = (address.parse::<Ipv4Addr>(), prefix.parse::<u8>()) else {
        return Err(usage);
    };
    let span = arguments.seconds(600)?;
    configure(address, prefix)?;
    let mut mac = [0; 32];
    let mac = machine::read_text(c"/sys/class/net/eth0/address", &mut mac).unwrap_or("none");
    say!("net up address={address}/{prefix} mac={mac} echo_port={ECHO_PORT}");

    let socket =
        net::socket(AddressFamily::INET, SocketType::DGRAM, None).map_err(Failure::refused("socket"))?;
    net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, ECHO_PORT))
        .map_err(Failure::refused("bind"))?;
    let started = machine::now();
    let (mut datagrams, mut bytes) = (0_u64, 0_usize);
    while let Some(left) = span.checked_sub(machine::now().saturating_sub(started)) {
        let left = Timespec::try_from(left).map_err(|_| Failure::Usage("too many seconds"))?;
        let ready = event::poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&left))
            .map_err(Failure::refused("poll"))?;
        if ready == 0 {
            break;
        }
        let mut datagram = [0_u8; 2048];
        let (len, _, from) =
            net::recvfrom(&socket, &mut datagram, RecvFlags::empty()).map_err(Failure::refused("receive"))?;
        let Some(from) = from else { continue };
        net::sendto(&socket, &datagram[..len], SendFlags::empty(), &from)
            .map_err(Failure::refused("send"))?;
        datagrams += 1;
        bytes += len;
        if datagram.starts_with(b"quit") {
            break;
        }
    }
    say!("net served datagrams={datagrams} bytes={bytes}");
    Ok(())
}

/// Gives eth0 its address and sets it up, by rtnetlink.
fn configure(address: Ipv4Addr, prefix: u8) -> Result<(), Failure> {
    let route =
        net::socket(AddressFamily::NETLINK, SocketType::RAW, None).map_err(Failure::refused("netlink"))?;
    let eth0 = net::netdevice::name_to_index(&route, "eth0").map_err(Failure::refused("eth0"))?;
    let octets = address.octets();

    // struct ifaddrmsg, then IFA_LOCAL and IFA_ADDRESS.
    let mut body = [0; 24];
    body[0] = 2; // AF_INET
    body[1] = prefix;
    body[4..8].copy_from_slice(&eth0.to_ne_bytes());
    for (attribute, kind) in body[8..].chunks_mut(8).zip([2_u16, 1]) {
        attribute[..2].copy_from_slice(&8_u16.to_ne_bytes());
        attribute[2..4].copy_from_slice(&kind.to_ne_bytes());
        attribute[4..].copy_from_slice(&octets);
    }
    request(&route, 20, &body).map_err(Failure::refused("address of eth0"))?; // RTM_NEWADDR

    // struct ifinfomsg with IFF_UP set and nothing else changed.
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&eth0.to_ne_bytes());
    body[8..12].copy_from_slice(&1_u32.to_ne_bytes());
    body[12..16].copy_from_slice(&1_u32.to_ne_bytes());
    request(&route, 16, &body).map_err(Failure::refused("eth0 up")) // RTM_NEWLINK
}

/// Sends one message and takes the kernel's answer.
fn request(route: &OwnedFd, kind: u16, body: &[u8]) -> rustix::io::Result<()> {
    const REQUEST_CREATE_ACK: u16 = 0x1 | 0x400 | 0x4;
    let mut message = [0; 64];
    let len = 16 + body.len();
    // The message is a struct nlmsghdr and 24 bytes at most.
    message[..4].copy_from_slice(&u32::try_from(len).unwrap_or_default().to_ne_bytes());
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&REQUEST_CREATE_ACK.to_ne_bytes());
    message[16..len].copy_from_slice(body);
    net::send(route, &message[..len], SendFlags::empty())?;
    let mut answer = [0; 128];
    net::recv(route, &mut answer, RecvFlags::empty())?;
    // struct nlmsgerr follows the header; its first word is 0 or a negative errno.
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        error => Err(rustix::io::Errno::from_raw_os_error(-error)),
    }
}
