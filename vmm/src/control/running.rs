//! A microVM that runs, as its control interface has it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mmu_notifier::{AddressRange, PAGE_SIZE};

use super::{MemoryControl, metrics};
use crate::{
    api::{
        OperationError, Operations,
        metrics::MetricSet,
        schema::{
            BalloonHintingStatus, BalloonStatistics, Discarded, DriveUpdate, GuestStatistics, MemoryPolicy,
            MemoryReport,
        },
    },
    microvm::Handle,
    virtio::{
        balloon::{Balloon, GuestStats},
        block::Block,
        net::Net,
        rng::Rng,
    },
};

/// Pages of a balloon in a MiB.
#[expect(clippy::cast_possible_truncation, reason = "256")]
const PAGES_PER_MIB: u32 = ((1 << 20) / PAGE_SIZE) as u32;

/// Its handle and its devices. It may have ended: then all of this has no effect any more.
#[derive(Debug)]
pub(super) struct RunningVm {
    pub(super) handle: Handle,
    pub(super) memory: MemoryControl,
    pub(super) devices: Devices,
}

/// The devices that the guest has, those of which there may be several by their names.
#[derive(Debug, Default)]
pub(super) struct Devices {
    pub(super) drives: Vec<(String, Arc<Mutex<Block>>)>,
    pub(super) interfaces: Vec<(String, Arc<Mutex<Net>>)>,
    pub(super) balloon: Option<Arc<Mutex<Balloon>>>,
    pub(super) entropy: Option<Arc<Mutex<Rng>>>,
}

impl RunningVm {
    fn balloon(&self) -> Result<MutexGuard<'_, Balloon>, OperationError> {
        let balloon = self
            .devices
            .balloon
            .as_ref()
            .ok_or_else(|| OperationError::Unsupported("no balloon".to_owned()))?;
        Ok(lock(balloon))
    }
}

impl Operations for RunningVm {
    fn pause(&mut self) -> Result<(), OperationError> {
        self.handle.pause();
        Ok(())
    }

    fn resume(&mut self) -> Result<(), OperationError> {
        self.handle.resume();
        Ok(())
    }

    fn send_ctrl_alt_del(&mut self) -> Result<(), OperationError> {
        if self.handle.press_ctrl_alt_del() {
            return Ok(());
        }
        let why = "SendCtrlAltDel: the guest has no driver for its keyboard (i8042, atkbd); have it power off, or end \
                   the process by SIGTERM";
        Err(OperationError::Unsupported(why.to_owned()))
    }

    fn set_balloon(&mut self, amount_mib: u32) -> Result<(), OperationError> {
        self.balloon()?.set_amount(amount_mib).map_err(OperationError::failed)
    }

    fn balloon_statistics(&mut self) -> Result<BalloonStatistics, OperationError> {
        let balloon = self.balloon()?;
        let (target, actual) = (balloon.target_pages(), balloon.actual_pages());
        Ok(BalloonStatistics {
            target_pages: target,
            actual_pages: actual,
            target_mib: target / PAGES_PER_MIB,
            actual_mib: actual / PAGES_PER_MIB,
            guest: guest_statistics(balloon.guest_stats()),
        })
    }

    fn set_balloon_interval(&mut self, seconds: u16) -> Result<(), OperationError> {
        let interval = Duration::from_secs(seconds.into());
        self.balloon()?.set_stats_interval(interval).map_err(OperationError::failed)
    }

    fn start_hinting(&mut self, acknowledge_on_stop: bool) -> Result<(), OperationError> {
        self.balloon()?.start_hinting(acknowledge_on_stop).map_err(OperationError::failed)
    }

    fn stop_hinting(&mut self) -> Result<(), OperationError> {
        self.balloon()?.stop_hinting().map_err(OperationError::failed)
    }

    fn hinting_status(&mut self) -> Result<BalloonHintingStatus, OperationError> {
        let hinting = self.balloon()?.hinting();
        Ok(BalloonHintingStatus { host_cmd: hinting.host, guest_cmd: hinting.guest })
    }

    fn update_drive(&mut self, update: &DriveUpdate) -> Result<(), OperationError> {
        let drive = self.devices.drives.iter().find(|(id, _)| *id == update.drive_id);
        let (_, block) = drive.ok_or_else(|| OperationError::Unsupported("no such drive".to_owned()))?;
        let mut block = lock(block);
        let path = update.path_on_host.clone().unwrap_or_else(|| block.config().path.clone());
        block.replace(&path).map_err(OperationError::failed)
    }

    fn memory(&mut self) -> Result<MemoryReport, OperationError> {
        self.memory.report()
    }

    fn set_policy(&mut self, policy: &MemoryPolicy) -> Result<(), OperationError> {
        self.memory.set_policy(policy)
    }

    fn discard(&mut self, range: AddressRange) -> Result<Discarded, OperationError> {
        self.memory.discard(range)
    }

    fn metrics(&mut self, set: &mut MetricSet) {
        for (id, block) in &self.devices.drives {
            metrics::add_block(set, id, lock(block).stats());
        }
        for (id, net) in &self.devices.interfaces {
            metrics::add_net(set, id, lock(net).stats());
        }
        if let Some(balloon) = &self.devices.balloon {
            let balloon = lock(balloon);
            metrics::add_balloon(set, balloon.counters(), balloon.actual_pages());
        }
        if let Some(entropy) = &self.devices.entropy {
            metrics::add_entropy(set, lock(entropy).delivered_bytes());
        }
        metrics::add_memory(set, self.handle.memory());
    }
}

/// A device is never left half changed by a panic of its thread, which would have ended the microVM anyway.
fn lock<T>(device: &Mutex<T>) -> MutexGuard<'_, T> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

fn guest_statistics(stats: GuestStats) -> GuestStatistics {
    GuestStatistics {
        swap_in: stats.swap_in,
        swap_out: stats.swap_out,
        major_faults: stats.major_faults,
        minor_faults: stats.minor_faults,
        free_memory: stats.free_memory,
        total_memory: stats.total_memory,
        available_memory: stats.available_memory,
        disk_caches: stats.disk_caches,
        hugetlb_allocations: stats.hugetlb_allocations,
        hugetlb_failures: stats.hugetlb_failures,
        oom_kill: stats.oom_kill,
        alloc_stall: stats.alloc_stall,
        async_scan: stats.async_scan,
        direct_scan: stats.direct_scan,
        async_reclaim: stats.async_reclaim,
        direct_reclaim: stats.direct_reclaim,
    }
}
