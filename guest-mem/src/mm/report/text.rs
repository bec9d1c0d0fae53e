//! Reports for people, in the manner of `/proc/PID/smaps`.

use std::fmt::{self, Display, Formatter};

use super::{MmReport, Usage, VmaReport};
use crate::vma::{HugePolicy, VmaFlags};

impl Display for MmReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "mm {}: {}", self.mm, self.range)?;
        line(f, "Resident", self.resident_bytes)?;
        line(f, "Committed", self.committed_bytes)?;
        line(f, "Metadata", self.metadata_bytes)?;
        write!(f, "{}", self.usage)?;
        writeln!(f, "{:<16}{:>10}", "Replaced:", self.replaced_handlers)?;
        f.write_str("Faults:")?;
        for fault in self.faults.iter().filter(|fault| fault.count > 0) {
            write!(f, " {} {}", fault.reason.name(), fault.count)?;
        }
        writeln!(f)?;
        self.vmas.iter().try_for_each(|vma| write!(f, "{vma}"))
    }
}

impl Display for VmaReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let write = if self.flags.writable { 'w' } else { '-' };
        let name = self.name.as_deref().unwrap_or_default();
        let head = format!("{:012x}-{:012x} r{write}xs {name}", self.range.start(), self.range.end());
        writeln!(f, "{}", head.trim_end())?;
        write!(f, "{}", self.usage)?;
        writeln!(f, "VmFlags:{}", Flags(self.flags))
    }
}

impl Display for Usage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        line(f, "Size", self.size_bytes)?;
        line(f, "Rss", self.mapped_bytes())?;
        line(f, "Pss", self.pss_bytes)?;
        line(f, "Huge", self.huge_bytes)?;
        line(f, "Base", self.base_bytes)?;
        line(f, "Dirty", self.dirty_bytes)?;
        line(f, "Pinned", self.pinned_bytes)
    }
}

/// As the kernel abbreviates them, where it has them.
struct Flags(VmaFlags);

impl Display for Flags {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let VmaFlags { writable, dirty_tracked, mergeable, huge } = self.0;
        let flags =
            [(writable, "wr"), (dirty_tracked, "sd"), (mergeable, "mg"), (huge == HugePolicy::Always, "hg")];
        flags.iter().filter(|(on, _)| *on).try_for_each(|(_, name)| write!(f, " {name}"))
    }
}

fn line(f: &mut Formatter<'_>, name: &str, bytes: u64) -> fmt::Result {
    let name = format!("{name}:");
    writeln!(f, "{name:<16}{:>10} kB", bytes >> 10)
}
