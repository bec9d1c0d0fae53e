//! A source of entropy: the kernel's own (virtio 1.2, section 5.4).
#![expect(unsafe_code, reason = "the C library's `getrandom` takes a pointer")]

use std::io;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::{
    ActivateError, Activation, Answer, Chain, DeviceQueue, Progress, VirtioDevice, device::read_space,
};

const QUEUE_SIZES: [u16; 1] = [64];
/// What one request gets at most, in bytes: a driver asks for 64 at a time.
const LARGEST: usize = 4096;

/// The device.
#[derive(Debug, Default)]
pub struct Rng {
    requests: Option<DeviceQueue>,
    delivered_bytes: u64,
}

impl Rng {
    /// One without a driver.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many random bytes the guest has been given.
    #[must_use]
    pub const fn delivered_bytes(&self) -> u64 {
        self.delivered_bytes
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&[], offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.requests = activation.into_queues().into_iter().next();
        Ok(())
    }

    fn reset(&mut self) {
        self.requests = None;
    }

    fn queue_notified(&mut self, _: usize) -> Progress {
        let Some(requests) = &mut self.requests else { return Progress::Drained };
        let delivered = &mut self.delivered_bytes;
        requests.serve(|chain, _| {
            let bytes = fill(chain);
            *delivered += u64::from(bytes);
            Answer::Used(bytes)
        })
    }
}

/// Fills the front of the request, and says how many bytes that is.
fn fill(chain: &mut Chain) -> u32 {
    let mut bytes = [0; LARGEST];
    let wanted = chain.writable.len().min(LARGEST);
    let Some(wanted) = bytes.get_mut(..wanted) else { return 0 };
    let filled = get_random(wanted).unwrap_or_else(|error| {
        // Neither flags nor size can be wrong, and the kernel's pool is filled long before a guest runs.
        log::error!("no random bytes for the guest: {error}");
        0
    });
    let delivered = wanted.get(..filled).unwrap_or_default();
    match chain.writable.write_all(delivered) {
        Ok(()) => u32::try_from(filled).unwrap_or(0),
        Err(_) => 0,
    }
}

fn get_random(bytes: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most the slice's own length to it.
    let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    usize::try_from(filled).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{Buffer, Driver, survives_any_rings};

    fn active(driver: &Driver) -> Rng {
        let mut rng = Rng::new();
        rng.activate(driver.activation(0)).unwrap();
        rng
    }

    #[test]
    fn every_buffer_is_filled_with_other_bytes() {
        let mut driver = Driver::new(64);
        let mut rng = active(&driver);
        driver.send(&[Buffer::write(0x8000, 64)]);
        driver.send(&[Buffer::write(0x9000, 32), Buffer::write(0xa000, 32)]);

        assert_eq!(rng.queue_notified(0), Progress::Drained);

        assert_eq!(driver.used(), [(0, 64), (1, 64)]);
        assert_eq!(driver.interrupts(), 1);
        let first: [u8; 64] = driver.read(0x8000);
        let second: [u8; 32] = driver.read(0x9000);
        assert_ne!(first, [0; 64]);
        assert_ne!(second, [0; 32]);
        assert_ne!(first[..32], second);
        assert_eq!(rng.delivered_bytes(), 128);
    }

    #[test]
    fn a_large_or_an_empty_request_gets_what_it_can() {
        let mut driver = Driver::new(64);
        let mut rng = active(&driver);
        driver.send(&[Buffer::write(0x8000, 0x10_000)]);
        driver.send(&[Buffer::read(0x8000, 64)]);

        assert_eq!(rng.queue_notified(0), Progress::Drained);

        assert_eq!(driver.used(), [(0, 4096), (1, 0)]);
    }

    #[test]
    fn nothing_is_written_after_a_reset() {
        let mut driver = Driver::new(64);
        let mut rng = active(&driver);
        rng.reset();
        driver.send(&[Buffer::write(0x8000, 64)]);

        assert_eq!(rng.queue_notified(0), Progress::Drained);

        assert_eq!(driver.used(), []);
        assert_eq!(driver.read::<64>(0x8000), [0; 64]);
    }

    #[test]
    fn no_descriptor_makes_it_touch_what_it_was_not_given() {
        survives_any_rings(|_| Rng::new(), 0, &[]);
    }
}
