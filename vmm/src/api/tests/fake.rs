//! A microVM that does nothing but write down what it was told.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use mmu_notifier::AddressRange;

use crate::api::{
    Launch, OperationError, Operations, VmConfig,
    metrics::MetricSet,
    schema::{
        BalloonHintingStatus, BalloonStatistics, Discarded, DriveUpdate, GuestStatistics, MemoryPolicy,
        MemoryReport,
    },
};

/// What it was told; and whether it is to fail.
#[derive(Debug, Default)]
pub(super) struct Notes {
    told: Mutex<Vec<String>>,
    fails: AtomicBool,
}

#[derive(Clone)]
pub(super) struct Fake(Arc<Notes>);

impl Notes {
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.told.lock().unwrap())
    }

    /// From now on everything fails, or nothing does any more.
    pub(super) fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::Relaxed);
    }

    fn note(&self, what: impl Into<String>) -> Result<(), OperationError> {
        if self.fails.load(Ordering::Relaxed) {
            let cause = std::io::Error::other("out of ideas");
            return Err(OperationError::failed(anyhow::Error::new(cause).context("it did not work")));
        }
        self.told.lock().unwrap().push(what.into());
        Ok(())
    }
}

impl Fake {
    pub(super) fn new(notes: Arc<Notes>) -> Self {
        Self(notes)
    }
}

impl Launch for Fake {
    fn launch(&mut self, config: &VmConfig) -> Result<Box<dyn Operations>, OperationError> {
        let machine = &config.machine_config;
        self.0.note(format!(
            "launch {} vCPUs {} MiB {} {:?}",
            machine.vcpu_count,
            machine.mem_size_mib,
            machine.backing(),
            config.command_line()
        ))?;
        Ok(Box::new(self.clone()))
    }
}

impl Operations for Fake {
    fn pause(&mut self) -> Result<(), OperationError> {
        self.0.note("pause")
    }

    fn resume(&mut self) -> Result<(), OperationError> {
        self.0.note("resume")
    }

    fn send_ctrl_alt_del(&mut self) -> Result<(), OperationError> {
        self.0.note("ctrl-alt-del")
    }

    fn set_balloon(&mut self, amount_mib: u32) -> Result<(), OperationError> {
        self.0.note(format!("balloon {amount_mib}"))
    }

    fn balloon_statistics(&mut self) -> Result<BalloonStatistics, OperationError> {
        self.0.note("statistics")?;
        let guest = GuestStatistics { free_memory: Some(4096), ..GuestStatistics::default() };
        Ok(BalloonStatistics { target_pages: 256, actual_pages: 128, target_mib: 1, actual_mib: 0, guest })
    }

    fn set_balloon_interval(&mut self, seconds: u16) -> Result<(), OperationError> {
        self.0.note(format!("interval {seconds}"))
    }

    fn start_hinting(&mut self, acknowledge_on_stop: bool) -> Result<(), OperationError> {
        self.0.note(format!("hinting {acknowledge_on_stop}"))
    }

    fn stop_hinting(&mut self) -> Result<(), OperationError> {
        self.0.note("hinting stops")
    }

    fn hinting_status(&mut self) -> Result<BalloonHintingStatus, OperationError> {
        Ok(BalloonHintingStatus { host_cmd: 2, guest_cmd: None })
    }

    fn update_drive(&mut self, update: &DriveUpdate) -> Result<(), OperationError> {
        self.0.note(format!("drive {} {:?}", update.drive_id, update.path_on_host))
    }

    fn memory(&mut self) -> Result<MemoryReport, OperationError> {
        Ok(MemoryReport { backing: "shmem".to_owned(), guest_bytes: 1 << 27, ..MemoryReport::default() })
    }

    fn set_policy(&mut self, policy: &MemoryPolicy) -> Result<(), OperationError> {
        self.0.note(format!("policy {:?} {:?}", policy.range, policy.huge))
    }

    fn discard(&mut self, range: AddressRange) -> Result<Discarded, OperationError> {
        self.0.note(format!("discard {range}"))?;
        Ok(Discarded { freed_bytes: range.len(), ..Discarded::default() })
    }

    fn metrics(&mut self, metrics: &mut MetricSet) {
        metrics.group_of("block", "disk").counter("read_bytes", 512);
    }
}
