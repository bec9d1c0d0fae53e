//! The pools of the hugetlb allocator.

use std::fmt;

use crate::host_files::{HostFileError, HostFiles};

/// A page size of the hugetlb allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HugePageSize {
    /// 2 MiB.
    Mb2,
    /// 1 GiB.
    Gb1,
}

impl HugePageSize {
    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// The logarithm to base 2 of the size in bytes, which is how `memfd_create` takes it.
    pub(crate) const fn shift(self) -> u32 {
        match self {
            Self::Mb2 => 21,
            Self::Gb1 => 30,
        }
    }

    /// The name of the pool's directory in sysfs.
    pub(crate) fn directory(self) -> String {
        format!("hugepages-{}kB", self.bytes() >> 10)
    }
}

impl fmt::Display for HugePageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Mb2 => "2M",
            Self::Gb1 => "1G",
        })
    }
}

/// A pool of the hugetlb allocator as it was when read; all counts are in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugePagePool {
    /// The size of its pages.
    pub size: HugePageSize,
    /// The NUMA node it belongs to; `None` for the whole machine's pool.
    pub node: Option<u32>,
    /// Pages in the pool, surplus pages included.
    pub total: u64,
    /// Pages in the pool that hold nothing, reserved ones included.
    pub free: u64,
    /// Free pages that are promised to mappings; 0 for a node, as the kernel keeps promises for the machine only.
    pub reserved: u64,
    /// Pages of the whole machine's pool that overcommit added.
    pub surplus: u64,
    /// How many pages overcommit may add to the whole machine's pool.
    pub overcommit: u64,
}

/// Why a pool could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadPoolError {
    /// Neither CPU nor kernel knows pages of that size.
    #[error("this CPU or kernel has no huge pages of {0}")]
    Unsupported(HugePageSize),
    /// The pool is there but cannot be read.
    #[error("cannot read the pool of huge pages")]
    Unreadable(#[source] HostFileError),
}

impl HugePagePool {
    /// The whole machine's pool of pages of `size`.
    ///
    /// # Errors
    /// [`ReadPoolError`] if there is none or sysfs cannot be read.
    pub fn read(size: HugePageSize) -> Result<Self, ReadPoolError> {
        Self::read_in(HostFiles::system(), size, None)
    }

    /// The pool of pages of `size` on the NUMA node `node`.
    ///
    /// # Errors
    /// [`ReadPoolError`] if there is none or sysfs cannot be read.
    pub fn read_on_node(size: HugePageSize, node: u32) -> Result<Self, ReadPoolError> {
        Self::read_in(HostFiles::system(), size, Some(node))
    }

    pub(crate) fn read_in(
        files: HostFiles<'_>,
        size: HugePageSize,
        node: Option<u32>,
    ) -> Result<Self, ReadPoolError> {
        let machine = directory(size, None);
        let here = directory(size, node);
        let number = |directory: &str, name: &str| {
            files.number(format!("{directory}/{name}")).map_err(|error| {
                if error.is_missing() {
                    ReadPoolError::Unsupported(size)
                } else {
                    ReadPoolError::Unreadable(error)
                }
            })
        };
        Ok(Self {
            size,
            node,
            total: number(&here, "nr_hugepages")?,
            free: number(&here, "free_hugepages")?,
            reserved: match node {
                Some(_) => 0,
                None => number(&machine, "resv_hugepages")?,
            },
            surplus: number(&machine, "surplus_hugepages")?,
            overcommit: number(&machine, "nr_overcommit_hugepages")?,
        })
    }

    /// How many pages a new mapping can have: free ones that nobody was promised, and what overcommit may still add.
    #[must_use]
    pub const fn available(&self) -> u64 {
        self.free.saturating_sub(self.reserved) + self.overcommit.saturating_sub(self.surplus)
    }

    /// The command, run as root, that makes `needed` pages available.
    pub(crate) fn command_for(&self, needed: u64) -> String {
        let pages = self.total + needed.saturating_sub(self.available());
        let directory = directory(self.size, self.node);
        format!("echo {pages} > /{directory}/nr_hugepages")
    }
}

fn directory(size: HugePageSize, node: Option<u32>) -> String {
    let name = size.directory();
    match node {
        Some(node) => format!("sys/devices/system/node/node{node}/hugepages/{name}"),
        None => format!("sys/kernel/mm/hugepages/{name}"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::host_files::tests::FakeHost;

    const POOL_2M: &str = "sys/kernel/mm/hugepages/hugepages-2048kB";
    const NODE_1: &str = "sys/devices/system/node/node1/hugepages/hugepages-2048kB";

    /// Gives the made-up host a pool of 2 MiB pages.
    pub(crate) fn write_pool(host: &FakeHost, [total, free, reserved, surplus, overcommit]: [u64; 5]) {
        let files = [
            ("nr_hugepages", total),
            ("free_hugepages", free),
            ("resv_hugepages", reserved),
            ("surplus_hugepages", surplus),
            ("nr_overcommit_hugepages", overcommit),
        ];
        for (name, number) in files {
            host.write(&format!("{POOL_2M}/{name}"), &format!("{number}\n"));
        }
    }

    /// Gives the made-up host's node 1 a pool of 2 MiB pages.
    pub(crate) fn write_node_pool(host: &FakeHost, [total, free]: [u64; 2]) {
        host.write(&format!("{NODE_1}/nr_hugepages"), &total.to_string());
        host.write(&format!("{NODE_1}/free_hugepages"), &free.to_string());
    }

    #[test]
    fn available_is_what_nobody_was_promised_and_overcommit_still_allows() {
        let host = FakeHost::with(&[]);
        write_pool(&host, [10, 7, 3, 2, 5]);

        let pool = HugePagePool::read_in(host.files(), HugePageSize::Mb2, None).unwrap();

        assert_eq!((pool.total, pool.free, pool.reserved), (10, 7, 3));
        assert_eq!(pool.available(), (7 - 3) + (5 - 2));
        assert_eq!(pool.command_for(9), format!("echo 12 > /{POOL_2M}/nr_hugepages"));
    }

    #[test]
    fn a_lowered_overcommit_limit_takes_nothing_away() {
        let host = FakeHost::with(&[]);
        write_pool(&host, [4, 1, 0, 3, 2]);

        let pool = HugePagePool::read_in(host.files(), HugePageSize::Mb2, None).unwrap();

        assert_eq!(pool.available(), 1);
    }

    #[test]
    fn a_node_has_its_own_pages() {
        let host = FakeHost::with(&[]);
        write_pool(&host, [10, 7, 3, 0, 0]);
        write_node_pool(&host, [6, 2]);

        let pool = HugePagePool::read_in(host.files(), HugePageSize::Mb2, Some(1)).unwrap();

        assert_eq!((pool.total, pool.available()), (6, 2));
        assert_eq!(pool.command_for(3), format!("echo 7 > /{NODE_1}/nr_hugepages"));
    }

    #[test]
    fn a_size_that_the_host_lacks_is_told_from_a_file_that_is_odd() {
        let host = FakeHost::with(&[]);
        write_pool(&host, [1; 5]);
        host.write(&format!("{POOL_2M}/nr_hugepages"), "many");

        let lacking = HugePagePool::read_in(host.files(), HugePageSize::Gb1, None);
        let odd = HugePagePool::read_in(host.files(), HugePageSize::Mb2, None);

        assert!(matches!(lacking, Err(ReadPoolError::Unsupported(HugePageSize::Gb1))), "{lacking:?}");
        assert!(matches!(odd, Err(ReadPoolError::Unreadable(_))), "{odd:?}");
    }
}
