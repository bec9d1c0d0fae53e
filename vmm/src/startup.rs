//! What it takes to start a microVM: the way to the guest's first instruction, stage by stage, and the memory that
//! the VMM needs for itself.

use std::{fs, io, ops::Range, time::Duration};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::{
    interrupt::Interrupt,
    kvm::Kvm,
    machine::{Machine, MachineConfig, MachineError, RunError, Stage},
};

/// One start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// What had been reached, and when: nanoseconds since the process was asked for.
    pub reached: Vec<(String, u64)>,
    /// Bytes resident in the VMM's process after the guest's first command, its guest memory not counted.
    pub overhead_bytes: u64,
    /// Bytes of guest memory resident then: RAM, page tables and mailboxes.
    pub guest_bytes: u64,
}

/// Why a start could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The machine could not be made.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The guest did not come up.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The memory of this process could not be read.
    #[error("cannot read what this process has resident")]
    Memory(#[source] io::Error),
}

/// Now, by CLOCK_MONOTONIC, which is the same in every process.
#[must_use]
pub fn monotonic() -> Duration {
    // The clock exists on every Linux: the call cannot fail.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// Starts a guest, waits for its first doorbell, and says when this process, asked for at `asked`, got where.
///
/// # Errors
/// [`StartError`].
pub fn start(
    kvm: &Kvm,
    config: &MachineConfig,
    interrupt: &Interrupt,
    asked: Duration,
) -> Result<Start, StartError> {
    let mut reached = Vec::with_capacity(8);
    let mut mark = |name: &str| {
        let since = monotonic().saturating_sub(asked);
        reached.push((name.to_owned(), u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)));
    };
    mark("kvm opened");
    let mut machine = Machine::new_in_stages(kvm, config, interrupt, &mut |stage| mark(stage.name()))?;
    machine.run(&[])?;
    mark("first doorbell");
    let [ram, control] = machine.host_ranges();
    let (all, guest_bytes) = resident(&[ram, control]).map_err(StartError::Memory)?;
    Ok(Start { reached, overhead_bytes: all - guest_bytes, guest_bytes })
}

impl Stage {
    /// What has been reached, as reports call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::VmMade => "VM made",
            Self::MemoryMade => "memory made",
            Self::SlotsSet => "memory slots set",
            Self::GuestLoaded => "guest loaded",
            Self::VcpusReady => "vCPUs ready",
        }
    }
}

/// Bytes resident in this process, over all mappings and over those within `ranges`.
fn resident(ranges: &[Range<u64>]) -> io::Result<(u64, u64)> {
    Ok(sum_smaps(&fs::read_to_string("/proc/self/smaps")?, ranges))
}

fn sum_smaps(smaps: &str, ranges: &[Range<u64>]) -> (u64, u64) {
    let (mut all, mut within) = (0, 0);
    let mut inside = false;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("Rss:") => {
                let bytes = words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) << 10;
                all += bytes;
                within += if inside { bytes } else { 0 };
            }
            Some(first) if !first.ends_with(':') => {
                let start = first.split('-').next().and_then(|text| u64::from_str_radix(text, 16).ok());
                inside = start.is_some_and(|start| ranges.iter().any(|range| range.contains(&start)));
            }
            _ => {}
        }
    }
    (all, within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_mappings_are_told_apart_by_their_addresses() {
        let smaps = "\
1000-3000 rw-p 00000000 00:00 0     [anon:underlay:vm:ram]
Size:                  8 kB
Rss:                   4 kB
VmFlags: rd wr
3000-4000 r-xp 00000000 fe:00 7     /usr/bin/underlay
Rss:                   2 kB
";

        assert_eq!(sum_smaps(smaps, &[0x1000..0x3000, 0x9000..0xa000]), (6 << 10, 4 << 10));
        assert_eq!(sum_smaps(smaps, &[]), (6 << 10, 0));
    }

    #[test]
    fn this_process_has_something_resident() {
        let (all, within) = resident(&[]).unwrap();

        assert!(all > 0);
        assert_eq!(within, 0);
    }
}
