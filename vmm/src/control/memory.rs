//! Guest RAM, as `/memory` shows, changes and discards it.

use std::sync::Arc;

use guest_mem::{
    GuestRam, MmReport, RamReport,
    vma::{HugePolicy, VmaChange},
};
use hdrhistogram::Histogram;
use mmu_notifier::AddressRange;

use super::clock::TickClock;
use crate::{
    api::{
        OperationError,
        schema::{
            Discarded, FaultLatency, HugePolicyName, MemoryPolicy, MemoryRange, MemoryReport, Refused,
            VmaUsage,
        },
    },
    memory::{Memory, MemoryError},
};

/// The longest fault that is told apart from longer ones, in nanoseconds: a minute.
const LONGEST_FAULT_NS: u64 = 60_000_000_000;

/// The RAM of a microVM that runs.
#[derive(Debug)]
pub struct MemoryControl {
    memory: Arc<Memory>,
    clock: TickClock,
    /// How long faults took, in nanoseconds: those that the handlers still knew of whenever a report was made. `None`
    /// until one was timed.
    latencies: Option<Histogram<u64>>,
}

impl MemoryControl {
    /// Of a guest that is about to run, or runs.
    #[must_use]
    pub fn new(memory: Arc<Memory>) -> Self {
        Self { memory, clock: TickClock::start(), latencies: None }
    }

    /// How much of it is there, and how it came to be.
    ///
    /// # Errors
    /// [`OperationError::Failed`] if the kernel does not say.
    pub fn report(&mut self) -> Result<MemoryReport, OperationError> {
        self.note_latencies();
        let mut report = MemoryReport { guest_bytes: self.memory.bytes(), ..MemoryReport::default() };
        let mut there = Sum::of_nothing();
        for ram in self.memory.rams() {
            report.backing = ram.backing().to_string();
            report.resolved_by = ram.backing().resolved_by();
            let usage = ram.report().map_err(OperationError::failed)?;
            there.add(usage);
            match ram.mm_report() {
                Some(mm) => add_managed(&mut report, &mm),
                None => report.vmas.push(unmanaged(ram, usage)),
            }
        }
        report.resident_bytes = there.resident;
        report.huge_bytes = there.huge;
        report.fault_latency = self.latencies.as_ref().map(latency);
        Ok(report)
    }

    /// Changes what is asked for in a range, or everywhere.
    ///
    /// # Errors
    /// [`OperationError::Refused`] if the range is not all RAM, [`OperationError::Unsupported`] where the kernel resolves the
    /// faults.
    pub fn set_policy(&self, policy: &MemoryPolicy) -> Result<(), OperationError> {
        let range = policy.range.map(MemoryRange::check).transpose()?;
        let parts = match range {
            Some(range) => self.memory.split(range).map_err(of_memory)?,
            None => self.memory.rams().iter().map(|ram| (&**ram, ram.range())).collect(),
        };
        let mut managed = Vec::with_capacity(parts.len());
        for (ram, part) in parts {
            let Some(mm) = ram.mm() else {
                let why = format!(
                    "{} has no policy: the kernel resolves its faults; use a managed backing",
                    ram.backing()
                );
                return Err(OperationError::Unsupported(why));
            };
            managed.push((mm, part));
        }
        for change in changes(policy) {
            for (mm, range) in &managed {
                mm.modify(*range, &change).map_err(OperationError::failed)?;
            }
        }
        Ok(())
    }

    /// Takes the pages of `range` away from the guest.
    ///
    /// # Errors
    /// [`OperationError::Refused`] if it is not all RAM, [`OperationError::Failed`] if the kernel did not take it.
    pub fn discard(&self, range: AddressRange) -> Result<Discarded, OperationError> {
        match self.memory.discard(range) {
            Ok(done) => Ok(Discarded {
                freed_bytes: done.freed_bytes,
                zeroed_bytes: done.zeroed_bytes,
                pinned_bytes: done.pinned_bytes,
            }),
            Err(error) => Err(of_memory(error)),
        }
    }

    fn note_latencies(&mut self) {
        for fault in self.memory.rams().iter().flat_map(|ram| ram.take_fault_trace()) {
            let nanoseconds = self.clock.nanoseconds(fault.resolved.saturating_sub(fault.read));
            let latencies =
                self.latencies.take().or_else(|| Histogram::new_with_max(LONGEST_FAULT_NS, 3).ok());
            self.latencies = latencies.map(|mut latencies| {
                latencies.saturating_record(nanoseconds);
                latencies
            });
        }
    }
}

/// What the parts of RAM have together; nothing is said of the whole where nothing is of a part.
struct Sum {
    resident: Option<u64>,
    huge: Option<u64>,
}

impl Sum {
    const fn of_nothing() -> Self {
        Self { resident: Some(0), huge: Some(0) }
    }

    fn add(&mut self, report: RamReport) {
        let sum = |all: Option<u64>, part: Option<u64>| Some(all? + part?);
        self.resident = sum(self.resident, report.resident_bytes);
        self.huge = sum(self.huge, report.huge_bytes);
    }
}

fn add_managed(report: &mut MemoryReport, mm: &MmReport) {
    let add = |sum: &mut Option<u64>, part: u64| *sum = Some(sum.unwrap_or(0) + part);
    add(&mut report.pss_bytes, mm.usage.pss_bytes);
    add(&mut report.committed_bytes, mm.committed_bytes);
    add(&mut report.metadata_bytes, mm.metadata_bytes);
    report.replaced_handlers += mm.replaced_handlers;
    for fault in &mm.faults {
        *report.faults.entry(fault.reason.name()).or_default() += fault.count;
    }
    report.vmas.extend(mm.vmas.iter().map(|vma| VmaUsage {
        start: vma.range.start(),
        length: vma.range.len(),
        name: vma.name.clone(),
        writable: vma.flags.writable,
        dirty_tracked: vma.flags.dirty_tracked,
        mergeable: vma.flags.mergeable,
        huge: Some(match vma.flags.huge {
            HugePolicy::Never => HugePolicyName::Never,
            HugePolicy::Always => HugePolicyName::Always,
        }),
        huge_bytes: vma.usage.huge_bytes,
        base_bytes: vma.usage.base_bytes,
        pss_bytes: vma.usage.pss_bytes,
        dirty_bytes: vma.usage.dirty_bytes,
        pinned_bytes: vma.usage.pinned_bytes,
    }));
}

/// All that is known of RAM whose faults the kernel resolves.
fn unmanaged(ram: &GuestRam, usage: RamReport) -> VmaUsage {
    let huge_bytes = usage.huge_bytes.unwrap_or(0);
    let resident = usage.resident_bytes.unwrap_or(0);
    VmaUsage {
        start: ram.range().start(),
        length: ram.range().len(),
        writable: true,
        huge_bytes,
        base_bytes: resident.saturating_sub(huge_bytes),
        ..VmaUsage::default()
    }
}

/// What a part of a range that is no RAM, or anything else that failed, is for who asked.
fn of_memory(error: MemoryError) -> OperationError {
    match error {
        MemoryError::NotRam { .. } => Refused::new("start", error.to_string()).into(),
        error => OperationError::failed(error),
    }
}

fn changes(policy: &MemoryPolicy) -> impl Iterator<Item = VmaChange> {
    let huge = policy.huge.map(|huge| match huge {
        HugePolicyName::Never => HugePolicy::Never,
        HugePolicyName::Always => HugePolicy::Always,
    });
    [
        huge.map(VmaChange::Huge),
        policy.dirty_tracked.map(VmaChange::DirtyTracked),
        policy.mergeable.map(VmaChange::Mergeable),
        policy.name.as_deref().map(|name| VmaChange::Name(Some(name.into()))),
    ]
    .into_iter()
    .flatten()
}

fn latency(latencies: &Histogram<u64>) -> FaultLatency {
    FaultLatency {
        count: latencies.len(),
        p50_ns: latencies.value_at_quantile(0.5),
        p90_ns: latencies.value_at_quantile(0.9),
        p99_ns: latencies.value_at_quantile(0.99),
        max_ns: latencies.max(),
    }
}

#[cfg(test)]
mod tests;
