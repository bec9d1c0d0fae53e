//! A balloon: memory that the guest gives up, and takes back (virtio 1.2, section 5.5).
//!
//! What the guest puts in is discarded, range by range, through [`Memory::discard`](crate::memory::Memory::discard):
//! whoever keeps a translation of the pages is told before they go.

mod config;
mod guest_stats;
mod hinting;
mod page_set;
mod pages;

pub use config::{BalloonConfig, BalloonCounters, BalloonError};
pub use guest_stats::GuestStats;
pub use hinting::Hinting;

use std::{
    os::fd::{AsFd, AsRawFd, RawFd},
    sync::Arc,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};

use super::{
    ActivateError, Activation, Answer, Chain, DeviceInterrupt, DeviceQueue, Progress, VirtioDevice,
    device::read_space,
};
use pages::{Because, Pages};

/// The number of this kind of device.
const VIRTIO_ID_BALLOON: u32 = 5;
const F_STATS_VQ: u64 = 1 << 1;
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_FREE_PAGE_HINT: u64 = 1 << 3;
const F_REPORTING: u64 = 1 << 5;
/// As many as there may be.
const QUEUE_SIZES: [u16; 5] = [256; 5];
const PAGES_PER_MIB: u32 = 256;
/// The least that a timer takes: none at all would stop it.
const AT_ONCE: Duration = Duration::from_nanos(1);

/// The device.
#[derive(Debug)]
pub struct Balloon {
    config: BalloonConfig,
    ram_mib: u64,
    /// What the guest says it has given up, in pages.
    actual: [u8; 4],
    timer: Option<TimerFd>,
    hinting: Hinting,
    guest_stats: GuestStats,
    counters: BalloonCounters,
    active: Option<Active>,
}

/// What there is while a driver is.
#[derive(Debug)]
struct Active {
    /// In the order of their numbers.
    queues: Vec<(Role, DeviceQueue)>,
    pages: Pages,
    interrupt: Arc<DeviceInterrupt>,
    /// The request that waits to be answered when the guest is to tell about its memory again.
    stats_request: Option<u16>,
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Stats,
    Hints,
    Reports,
}

impl Balloon {
    /// A balloon for a guest with `ram_bytes` of memory.
    ///
    /// # Errors
    /// [`BalloonError`].
    pub fn new(config: BalloonConfig, ram_bytes: u64) -> Result<Self, BalloonError> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = config.stats_interval.map(|_| TimerFd::new(ClockId::CLOCK_MONOTONIC, flags));
        let mut balloon = Self {
            config,
            ram_mib: ram_bytes >> 20,
            actual: [0; 4],
            timer: timer.transpose().map_err(BalloonError::Timer)?,
            hinting: Hinting::default(),
            guest_stats: GuestStats::default(),
            counters: BalloonCounters::default(),
            active: None,
        };
        balloon.set_amount(config.amount_mib)?;
        Ok(balloon)
    }

    /// What it was made of, with what was changed since.
    #[must_use]
    pub const fn config(&self) -> &BalloonConfig {
        &self.config
    }

    /// Asks the guest to give up so much of its memory, in MiB, from now on.
    ///
    /// # Errors
    /// [`BalloonError::TooLarge`].
    pub fn set_amount(&mut self, amount_mib: u32) -> Result<(), BalloonError> {
        if u64::from(amount_mib) > self.ram_mib || amount_mib > u32::MAX / PAGES_PER_MIB {
            return Err(BalloonError::TooLarge { amount_mib, ram_mib: self.ram_mib });
        }
        self.config.amount_mib = amount_mib;
        self.tell_driver();
        Ok(())
    }

    /// What the guest was asked to give up, in pages of 4 KiB.
    #[must_use]
    pub const fn target_pages(&self) -> u32 {
        self.config.amount_mib.saturating_mul(PAGES_PER_MIB)
    }

    /// What the guest says it has given up, in pages of 4 KiB.
    #[must_use]
    pub const fn actual_pages(&self) -> u32 {
        u32::from_le_bytes(self.actual)
    }

    /// What the guest last told about its memory.
    #[must_use]
    pub const fn guest_stats(&self) -> GuestStats {
        self.guest_stats
    }

    /// What the balloon has done.
    #[must_use]
    pub fn counters(&self) -> BalloonCounters {
        let queues = self.active.iter().flat_map(|active| &active.queues);
        let malformed = queues.map(|(_, queue)| queue.malformed()).sum::<u64>();
        BalloonCounters { malformed: self.counters.malformed + malformed, ..self.counters }
    }

    /// Where a run of free page hinting is.
    #[must_use]
    pub const fn hinting(&self) -> Hinting {
        self.hinting
    }

    /// Changes how often the guest is to tell about its memory: from now on, so that it does that at once.
    ///
    /// # Errors
    /// [`BalloonError`]: statistics that were off stay off, as the driver has no queue for them.
    pub fn set_stats_interval(&mut self, interval: Duration) -> Result<(), BalloonError> {
        if self.config.stats_interval.is_none() || interval.is_zero() {
            return Err(BalloonError::NoStats);
        }
        if let Some(timer) = &self.timer {
            set_timer(timer, AT_ONCE, interval).map_err(BalloonError::Timer)?;
        }
        self.config.stats_interval = Some(interval);
        Ok(())
    }

    /// Asks the guest which of its pages are free, and takes those away. The guest gets them back as soon as it has told
    /// of all, if `acknowledge_on_stop`, or else by [`stop_hinting`](Self::stop_hinting).
    ///
    /// # Errors
    /// [`BalloonError`].
    pub fn start_hinting(&mut self, acknowledge_on_stop: bool) -> Result<(), BalloonError> {
        self.check_hinting()?;
        self.hinting.start(acknowledge_on_stop);
        self.tell_driver();
        Ok(())
    }

    /// Lets the guest use again what it hinted at.
    ///
    /// # Errors
    /// [`BalloonError`].
    pub fn stop_hinting(&mut self) -> Result<(), BalloonError> {
        self.check_hinting()?;
        self.hinting.stop();
        self.tell_driver();
        Ok(())
    }

    fn check_hinting(&self) -> Result<(), BalloonError> {
        if !self.config.free_page_hinting {
            return Err(BalloonError::NoHinting);
        }
        let mut queues = self.active.iter().flat_map(|active| &active.queues);
        queues.any(|(role, _)| *role == Role::Hints).then_some(()).ok_or(BalloonError::NoDriver)
    }

    /// The configuration space has changed.
    fn tell_driver(&self) {
        if let Some(active) = &self.active {
            active.interrupt.config_changed();
        }
    }

    fn serve(&mut self, index: usize) -> Progress {
        let Some(active) = &mut self.active else { return Progress::Drained };
        let Some((role, queue)) = active.queues.get_mut(index) else { return Progress::Drained };
        let (pages, counters) = (&mut active.pages, &mut self.counters);
        let mut run_over = false;
        let progress = match role {
            Role::Inflate => queue.serve(|chain, _| pages.inflate(&mut chain.readable, counters)),
            Role::Deflate => queue.serve(|chain, _| pages.deflate(&mut chain.readable, counters)),
            Role::Stats => {
                let mut kept = active.stats_request.take();
                let progress = queue.serve(|chain, _| {
                    self.guest_stats = GuestStats::read(&mut chain.readable);
                    counters.stats_updates += 1;
                    // One waits; a driver that sends more gets them back.
                    if kept.is_some() {
                        return Answer::Used(0);
                    }
                    kept = Some(chain.head());
                    Answer::Kept
                });
                active.stats_request = kept;
                progress
            }
            Role::Hints => queue.serve(|chain, _| {
                run_over |= hint(&mut self.hinting, chain, pages, counters);
                Answer::Used(0)
            }),
            Role::Reports => queue.serve(|chain, _| {
                pages.free(&chain.writable, Because::Reported, counters);
                Answer::Used(0)
            }),
        };
        if run_over {
            self.tell_driver();
        }
        progress
    }
}

/// Serves what the driver sends about free pages. Says whether the configuration space has changed.
fn hint(hinting: &mut Hinting, chain: &mut Chain, pages: &mut Pages, counters: &mut BalloonCounters) -> bool {
    let mut number = [0; 4];
    if chain.readable.read_exact(&mut number).is_ok() {
        return hinting.answered(u32::from_le_bytes(number));
    }
    if hinting.takes_hints() {
        pages.free(&chain.writable, Because::Hinted, counters);
    }
    false
}

fn set_timer(timer: &TimerFd, first: Duration, interval: Duration) -> Result<(), Errno> {
    let [first, interval] = [first, interval].map(TimeSpec::from_duration);
    timer.set(Expiration::IntervalDelayed(first, interval), TimerSetTimeFlags::empty())
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn features(&self) -> u64 {
        let BalloonConfig { deflate_on_oom, stats_interval, free_page_reporting, free_page_hinting, .. } =
            self.config;
        [
            (stats_interval.is_some(), F_STATS_VQ),
            (deflate_on_oom, F_DEFLATE_ON_OOM),
            (free_page_hinting, F_FREE_PAGE_HINT),
            (free_page_reporting, F_REPORTING),
        ]
        .into_iter()
        .filter_map(|(offered, feature)| offered.then_some(feature))
        .sum()
    }

    fn queue_sizes(&self) -> &[u16] {
        let queues = roles(self.features()).count();
        QUEUE_SIZES.get(..queues).unwrap_or_default()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // The last of its four numbers is for poisoned pages, which nobody has.
        let numbers = [self.target_pages(), self.actual_pages(), self.hinting.host];
        let space = numbers.iter().rev().fold(0_u128, |space, number| space << 32 | u128::from(*number));
        read_space(&space.to_le_bytes(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            let index = at.checked_sub(4).and_then(|index| usize::try_from(index).ok());
            if let Some(to) = index.and_then(|index| self.actual.get_mut(index)) {
                *to = *byte;
            }
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        // Drivers number the queues of those features that they accept, and leave out the others.
        let roles = roles(self.features() & activation.features);
        let pages = Pages::new(Arc::clone(&activation.memory));
        let interrupt = Arc::clone(&activation.interrupt);
        let queues = roles.zip(activation.into_queues()).collect();
        if let (Some(timer), Some(interval)) = (&self.timer, self.config.stats_interval) {
            set_timer(timer, interval, interval).map_err(|errno| ActivateError::Host(errno.into()))?;
        }
        self.active = Some(Active { queues, pages, interrupt, stats_request: None });
        Ok(())
    }

    fn reset(&mut self) {
        self.counters = self.counters();
        self.active = None;
        self.actual = [0; 4];
        self.hinting.reset();
    }

    fn queue_notified(&mut self, queue: usize) -> Progress {
        self.serve(queue)
    }

    fn sources(&self) -> Vec<RawFd> {
        self.timer.iter().map(|timer| timer.as_fd().as_raw_fd()).collect()
    }

    fn source_ready(&mut self, _: usize) -> Progress {
        // Nothing to read means that the timer has been set anew.
        let rang = self.timer.as_ref().is_some_and(|timer| timer.wait().is_ok());
        if let Some(active) = self.active.as_mut().filter(|_| rang) {
            let queue = active.queues.iter_mut().find(|(role, _)| *role == Role::Stats);
            if let (Some((_, queue)), Some(head)) = (queue, active.stats_request.take()) {
                queue.complete(head, 0);
            }
        }
        Progress::Drained
    }
}

/// What the queues are for, in the order of their numbers, where these features are in use.
fn roles(features: u64) -> impl Iterator<Item = Role> {
    let optional = [(F_STATS_VQ, Role::Stats), (F_FREE_PAGE_HINT, Role::Hints), (F_REPORTING, Role::Reports)];
    let optional = optional.into_iter().filter(move |(feature, _)| features & feature != 0);
    [Role::Inflate, Role::Deflate].into_iter().chain(optional.map(|(_, role)| role))
}

#[cfg(test)]
mod tests;
