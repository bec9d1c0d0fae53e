//! What a process has of the system: as much after a run as before.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use guest_mem::{HugePagePool, HugePageSize};

/// Threads, descriptors and mappings that belong to a guest's RAM, and the host's huge pages.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Remains {
    threads: Vec<String>,
    descriptors: Vec<String>,
    mappings: Vec<String>,
    huge_pages: Option<(u64, u64)>,
}

impl Remains {
    pub(crate) fn now() -> Self {
        let entries = |path| fs::read_dir(path).unwrap().flatten();
        let names =
            entries("/proc/self/task").filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        let ours =
            |name: &String| ["fault-", "frame zero", "vcpu"].iter().any(|start| name.starts_with(start));
        let open = entries("/proc/self/fd").filter_map(|fd| fs::read_link(fd.path()).ok());
        let open = open.map(|path| path.display().to_string());
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        Self {
            threads: names.filter(ours).collect(),
            descriptors: open.filter(|path| path.contains("userfaultfd") || path.contains("memfd")).collect(),
            mappings: maps.lines().filter(|line| line.contains("memfd")).map(str::to_owned).collect(),
            huge_pages: HugePagePool::read(HugePageSize::Mb2).ok().map(|pool| (pool.free, pool.reserved)),
        }
    }

    /// Asserts that there is what there was; what is on its way out, such as a filler that sleeps, gets its time.
    #[track_caller]
    pub(crate) fn assert_same(&self) {
        let started = Instant::now();
        while Self::now() != *self && started.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(Self::now(), *self);
    }
}
