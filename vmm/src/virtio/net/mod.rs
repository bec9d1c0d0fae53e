//! A network interface: a tap device of the host's (virtio 1.2, section 5.1).
//!
//! Packets go straight between the tap device and guest memory. Each begins with a header that the kernel understands:
//! the guest may leave checksums and the cutting of TCP segments to the host, and is left checksums if it can do them.

mod tap;

pub use tap::{OpenTapError, Tap};

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use virtio_bindings::{
    virtio_ids::VIRTIO_ID_NET,
    virtio_net::{
        VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
        VIRTIO_NET_F_MAC,
    },
};

use super::{
    ActivateError, Activation, Answer, Chain, DeviceQueue, Progress, VirtioDevice, device::read_space,
};

const QUEUE_SIZES: [u16; 2] = [256; 2];
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// The header of a packet: `virtio_net_hdr_v1`, in bytes.
const HEADER: usize = 12;
/// Where in it the number of buffers is: always one here.
const NUM_BUFFERS: usize = 10;
/// The largest packet with its header: 64 KiB of IP, Ethernet and a VLAN tag.
const LARGEST: usize = HEADER + (64 << 10) + 18;

/// What a network interface is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// Its name.
    pub id: String,
    /// The tap device, which exists.
    pub tap: String,
    /// The guest's address; the guest makes one up if there is none.
    pub mac: Option<[u8; 6]>,
}

/// What an interface has done, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetStats {
    /// Packets that the guest received.
    pub rx_packets: u64,
    /// Their bytes, without headers.
    pub rx_bytes: u64,
    /// Packets that the guest sent.
    pub tx_packets: u64,
    /// Their bytes, without headers.
    pub tx_bytes: u64,
    /// Packets of the guest's that the host did not take.
    pub tx_dropped: u64,
    /// Times that the tap device failed to give a packet.
    pub rx_failed: u64,
    /// Requests that were malformed.
    pub malformed: u64,
}

/// The device.
#[derive(Debug)]
pub struct Net {
    config: NetConfig,
    tap: Tap,
    active: Option<Active>,
    stats: NetStats,
}

/// What there is while a driver is.
#[derive(Debug)]
struct Active {
    receive: DeviceQueue,
    transmit: DeviceQueue,
}

impl Net {
    /// Attaches the tap device of `config`.
    ///
    /// # Errors
    /// [`OpenTapError`].
    pub fn new(config: NetConfig) -> Result<Self, OpenTapError> {
        let tap = Tap::open(&config.tap, HEADER)?;
        Ok(Self::over(config, tap))
    }

    /// An interface whose packets `tap` gives and takes.
    #[must_use]
    pub fn over(config: NetConfig, tap: Tap) -> Self {
        Self { config, tap, active: None, stats: NetStats::default() }
    }

    /// What it was made of.
    #[must_use]
    pub const fn config(&self) -> &NetConfig {
        &self.config
    }

    /// What it has done.
    #[must_use]
    pub fn stats(&self) -> NetStats {
        let malformed =
            self.active.as_ref().map_or(0, |active| active.receive.malformed() + active.transmit.malformed());
        NetStats { malformed: self.stats.malformed + malformed, ..self.stats }
    }

    /// Gives the guest what the tap device has, as long as it has buffers for it.
    fn receive(&mut self) -> Progress {
        let Some(active) = &mut self.active else { return Progress::Drained };
        active.receive.serve(|chain, _| receive_packet(&self.tap, chain, &mut self.stats))
    }

    /// Gives the tap device what the guest sends.
    fn transmit(&mut self) -> Progress {
        let Some(active) = &mut self.active else { return Progress::Drained };
        active.transmit.serve(|chain, _| {
            let len = chain.readable.len();
            let sent = if (HEADER..=LARGEST).contains(&len) {
                chain.readable.write_packet(self.tap.as_fd())
            } else {
                Err(io::ErrorKind::InvalidInput.into())
            };
            match sent {
                Ok(_) => {
                    self.stats.tx_packets += 1;
                    self.stats.tx_bytes += (len - HEADER) as u64;
                }
                Err(error) => {
                    // As a wire would do it.
                    log::debug!("a packet of the guest's was dropped: {error}");
                    self.stats.tx_dropped += 1;
                }
            }
            Answer::Used(0)
        })
    }
}

fn receive_packet(tap: &Tap, chain: &mut Chain, stats: &mut NetStats) -> Answer {
    if chain.writable.len() < HEADER {
        stats.malformed += 1;
        return Answer::Used(0);
    }
    match chain.writable.read_packet(tap.as_fd()) {
        Ok(len) => {
            let buffers = chain.writable.skip(NUM_BUFFERS).and_then(|()| chain.writable.write_all(&[1, 0]));
            debug_assert!(buffers.is_ok(), "there is room for a header");
            stats.rx_packets += 1;
            stats.rx_bytes += len.saturating_sub(HEADER) as u64;
            Answer::Used(u32::try_from(len).unwrap_or(0))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Answer::NotYet,
        Err(error) => {
            // The buffer stays for the next packet.
            log::debug!("a tap device gave no packet: {error}");
            stats.rx_failed += 1;
            Answer::NotYet
        }
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        let host = 1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_HOST_TSO4 | 1 << VIRTIO_NET_F_HOST_TSO6;
        let address = if self.config.mac.is_some() { 1 << VIRTIO_NET_F_MAC } else { 0 };
        host | 1 << VIRTIO_NET_F_GUEST_CSUM | address
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.config.mac.unwrap_or_default(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let leaves_checksums = activation.features & 1 << VIRTIO_NET_F_GUEST_CSUM != 0;
        let offload = if leaves_checksums { libc::TUN_F_CSUM } else { 0 };
        self.tap.set_offload(offload).map_err(ActivateError::Host)?;
        let mut queues = activation.into_queues().into_iter();
        let mut next = |queue| queues.next().ok_or(ActivateError::QueueMissing { queue });
        self.active = Some(Active { receive: next(RECEIVE)?, transmit: next(TRANSMIT)? });
        Ok(())
    }

    fn reset(&mut self) {
        self.stats = self.stats();
        self.active = None;
    }

    fn queue_notified(&mut self, queue: usize) -> Progress {
        match queue {
            RECEIVE => self.receive(),
            TRANSMIT => self.transmit(),
            _ => Progress::Drained,
        }
    }

    fn sources(&self) -> Vec<RawFd> {
        vec![self.tap.as_raw_fd()]
    }

    fn source_ready(&mut self, _: usize) -> Progress {
        self.receive()
    }
}

#[cfg(test)]
mod tests;
