//! What underlay did where it resolved the guest's faults: the part of the JSON that kernel-resolved runs lack.

use std::{collections::BTreeMap, fmt};

use guest_mem::{BLOCK_SIZE, ManagedConfig, MmReport, Stock, Waiting};
use mmu_notifier::PAGE_SIZE;
use serde::{Deserialize, Serialize};

use super::Latency;
use super::format::{count, size};

/// How a managed RAM was run, and what it did in the median sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Managed {
    /// How it was run.
    pub setup: ManagedSetup,
    /// What came of its faults and what stood in their way, by the names of `guest_mem::FaultReason`. `around` counts
    /// pages, the others faults.
    pub faults: BTreeMap<String, u64>,
    /// Pages of 4 KiB that it maps.
    pub mapped_4k: u64,
    /// Pages of 2 MiB that it maps.
    pub mapped_2m: u64,
    /// Frames of 4 KiB that had been zeroed ahead when they were taken.
    pub stock_hits: u64,
    /// Frames of 4 KiB that were zeroed in the fault.
    pub zeroed_in_fault: u64,
    /// How long the guest was kept waiting for the stock before it ran. Not in the wall time; in the processor time.
    pub stock_wait_ns: u64,
    /// What the time of its faults went into; `null` where that was not to be had: of so many touches that they were
    /// only counted, or where the guest's time stamp counter and the host's do not count alike.
    pub stages: Option<StageTimes>,
    /// What its memory looked like after both passes, as `--smaps` shows it; `null` in reports of earlier versions.
    #[serde(default)]
    pub memory: Option<MmReport>,
}

/// How a managed RAM is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedSetup {
    /// The aligned window that is mapped around a fault on a page of 4 KiB: the least and the most, to which it grows
    /// while faults come in order. 4096 is the page alone.
    pub fault_around_bytes: [u64; 2],
    /// Pages of 2 MiB in a row that a fault maps, if those behind the first are zeroed, likewise. 1 is the page alone.
    pub fault_around_huge: [u64; 2],
    /// Threads that resolve faults.
    pub handlers: u64,
    /// What they do while there are none: `sleep` or `spin`.
    pub handler_wait: String,
    /// The processor that they are bound to; `null` where they are not.
    pub handler_cpu: Option<usize>,
    /// What is zeroed ahead: `all`, `none`, or a number of blocks of 2 MiB.
    pub stock: String,
}

/// What the time of faults went into, over all samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageTimes {
    /// How many faults these are: those whose touch was timed.
    pub faults: u64,
    /// From the guest's access until its next instruction: how long these touches took.
    pub touch_ns: Latency,
    /// From the guest's access until a handler had the fault.
    pub wake_ns: Latency,
    /// From then until the handler had resolved it, or until the guest went on if that came first.
    pub resolve_ns: Latency,
    /// From then until the guest's next instruction.
    pub resume_ns: Latency,
    /// How well the guest's counter and the host's are known to each other, at worst: by so much `wake_ns` may be too
    /// long and `resume_ns` too short, or the other way round. Zero where the guest reads the host's counter itself.
    pub clock_error_ns: f64,
}

impl ManagedSetup {
    /// How `config` has it.
    #[must_use]
    pub fn of(config: &ManagedConfig) -> Self {
        let service = &config.service;
        Self {
            fault_around_bytes: [config.around.base_bytes, config.around.most_base_bytes],
            fault_around_huge: [config.around.huge_pages, config.around.most_huge_pages],
            handlers: service.handlers.get() as u64,
            handler_wait: match service.waiting {
                Waiting::Sleep => "sleep",
                Waiting::Spin(_) => "spin",
            }
            .to_owned(),
            handler_cpu: service.cpu,
            stock: match config.stock {
                Stock::All => "all".to_owned(),
                Stock::None => "none".to_owned(),
                Stock::Blocks(blocks) => blocks.to_string(),
            },
        }
    }
}

impl fmt::Display for ManagedSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |[least, most]: [u64; 2], text: fn(u64) -> String| {
            if least == most { text(most) } else { format!("{} to {}", text(least), text(most)) }
        };
        if (self.fault_around_bytes, self.fault_around_huge) == ([PAGE_SIZE; 2], [1; 2]) {
            f.write_str("no fault-around")?;
        } else {
            let base = range(self.fault_around_bytes, size);
            let huge = range(self.fault_around_huge, count);
            write!(f, "fault-around {base} of base pages, {huge} huge pages")?;
        }
        let waits = if self.handler_wait == "spin" { "spins" } else { "sleeps" };
        match self.handlers {
            1 => write!(f, "; 1 handler that {waits}")?,
            handlers => write!(f, "; {handlers} handlers that {}", waits.trim_end_matches('s'))?,
        }
        if let Some(cpu) = self.handler_cpu {
            write!(f, " on CPU {cpu}")?;
        }
        match self.stock.as_str() {
            "all" => f.write_str("; all of RAM zeroed ahead"),
            "none" => f.write_str("; nothing zeroed ahead"),
            blocks => write!(f, "; {blocks} x 2 MiB kept zeroed ahead"),
        }
    }
}

impl Managed {
    /// How many bytes it maps.
    #[must_use]
    pub const fn mapped_bytes(&self) -> u64 {
        self.mapped_4k * PAGE_SIZE + self.mapped_2m * BLOCK_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setup_reads_as_a_phrase() {
        let plain = ManagedSetup::of(&ManagedConfig::default());
        let other = ManagedSetup {
            fault_around_bytes: [4096, 4096],
            fault_around_huge: [1, 1],
            handlers: 2,
            handler_wait: "spin".to_owned(),
            handler_cpu: Some(1),
            stock: "8".to_owned(),
        };

        assert_eq!(
            plain.to_string(),
            "fault-around 64 KiB to 2 MiB of base pages, 4 to 16 huge pages; 1 handler that sleeps; all of RAM zeroed ahead"
        );
        assert_eq!(
            other.to_string(),
            "no fault-around; 2 handlers that spin on CPU 1; 8 x 2 MiB kept zeroed ahead"
        );
    }
}
