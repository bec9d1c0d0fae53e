//! How much of guest RAM there really is.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;

/// How much of a guest RAM is in memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamReport {
    /// What the guest sees: the RAM's size.
    pub guest_bytes: u64,
    /// What is there.
    ///
    /// For a shared backing the blocks of its memfd, swapped-out pages included; for a `guest_memfd` the pages in its
    /// page cache; for a private one what the mapping's page table holds, which for a file counts pages of the page
    /// cache that were only read. `None` if nothing true can be said.
    pub resident_bytes: Option<u64>,
    /// What of it this process maps by huge page-table entries; for hugetlb all that is resident. `None` for a
    /// `guest_memfd`, whose pages KVM maps without this process's page table.
    pub huge_bytes: Option<u64>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The memfd does not say how many blocks it has.
    #[error("cannot find out how many pages the memfd of guest RAM has")]
    Stat(#[source] io::Error),
    /// The kernel does not say which pages are in the page cache.
    #[error("cannot find out which pages of the guest_memfd are there")]
    Residency(#[source] io::Error),
    /// The process's memory map cannot be read.
    #[error("cannot read /proc/self/smaps")]
    Smaps(#[source] io::Error),
}

/// Sums over the mappings of this process that lie in a range, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Smaps {
    /// Pages that are mapped, but for those of hugetlb.
    pub(crate) rss: u64,
    /// Pages of hugetlb that are mapped.
    pub(crate) hugetlb: u64,
    /// Transparent huge pages that are mapped as such.
    pub(crate) thp: u64,
}

impl Smaps {
    /// The sums for this process's mappings within the host addresses `range`.
    pub(crate) fn of(range: Range<u64>) -> Result<Self, ReportError> {
        let smaps = File::open("/proc/self/smaps").map_err(ReportError::Smaps)?;
        Self::parse(BufReader::new(smaps), range).map_err(ReportError::Smaps)
    }

    /// Reads mapping after mapping, in the order of their addresses, until the range has passed.
    fn parse(mut smaps: impl BufRead, range: Range<u64>) -> io::Result<Self> {
        let mut sums = Self::default();
        let mut inside = false;
        let mut line = String::new();
        while smaps.read_line(&mut line)? > 0 {
            if let Some(mapping) = mapping(&line) {
                if mapping.start >= range.end {
                    break;
                }
                inside = range.start <= mapping.start && mapping.end <= range.end;
            } else if inside {
                sums.add(&line);
            }
            line.clear();
        }
        Ok(sums)
    }

    /// Adds what a line like `Rss:    12 kB` says.
    fn add(&mut self, line: &str) {
        let Some((key, value)) = line.split_once(':') else {
            return;
        };
        let sum = match key {
            "Rss" => &mut self.rss,
            "Shared_Hugetlb" | "Private_Hugetlb" => &mut self.hugetlb,
            "AnonHugePages" | "ShmemPmdMapped" | "FilePmdMapped" => &mut self.thp,
            _ => return,
        };
        let kilobytes = value.trim().trim_end_matches(" kB").parse::<u64>();
        *sum += kilobytes.unwrap_or(0) << 10;
    }
}

/// The addresses in a line like `7f00-7f10 rw-p ...`, which begins a mapping; the others begin with a capital.
fn mapping(line: &str) -> Option<Range<u64>> {
    if line.starts_with(|c: char| c.is_ascii_uppercase()) {
        return None;
    }
    let (start, rest) = line.split_once('-')?;
    let (end, _) = rest.split_once(' ')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
10000-20000 rw-p 00000000 00:00 0      [anon:underlay:a-b:r]
Rss:                  64 kB
20000-40000 rw-p 00000000 00:00 0      [anon:underlay:vm:ram]
Size:                128 kB
Rss:                  12 kB
Pss:                  12 kB
AnonHugePages:         8 kB
Private_Hugetlb:       0 kB
VmFlags: rd wr mr mw me nh
40000-50000 rw-s 00000000 00:01 9      /memfd:underlay:vm:ram (deleted)
Rss:                   4 kB
Shared_Hugetlb:        1 kB
Private_Hugetlb:       2 kB
ShmemPmdMapped:       16 kB
50000-60000 rw-p 00000000 00:00 0
Rss:                 640 kB
";

    #[track_caller]
    fn sums(range: Range<u64>) -> Smaps {
        Smaps::parse(SMAPS.as_bytes(), range).unwrap()
    }

    #[test]
    fn only_mappings_within_the_range_count() {
        let one = Smaps { rss: 12 << 10, hugetlb: 0, thp: 8 << 10 };
        assert_eq!(sums(0x20000..0x40000), one);

        let two = Smaps { rss: 16 << 10, hugetlb: 3 << 10, thp: 24 << 10 };
        assert_eq!(sums(0x20000..0x50000), two);

        assert_eq!(sums(0x28000..0x38000), Smaps::default());
    }

    #[test]
    fn nothing_after_the_range_is_read() {
        let text = format!("{SMAPS}\u{fffd}");
        let mut broken = text.into_bytes();
        broken.extend([0xff, 0xff]);

        let sums = Smaps::parse(&*broken, 0x10000..0x20000).unwrap();

        assert_eq!(sums.rss, 64 << 10);
    }
}
