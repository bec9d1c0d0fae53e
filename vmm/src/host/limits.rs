//! The limits that guest memory runs into.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use serde::{Deserialize, Serialize};

use super::tree::Tree;

/// The limits of this kernel and this process; `null` where this kernel has no such setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// How many mappings a process may have (`vm.max_map_count`).
    pub max_map_count: Option<u64>,
    /// Bytes that this process may lock in memory (`RLIMIT_MEMLOCK`).
    pub memlock: Option<ResourceLimit>,
    /// How many files this process may have open (`RLIMIT_NOFILE`).
    pub nofile: Option<ResourceLimit>,
    /// How the kernel counts memory that was promised: 0 heuristically, 1 not at all, 2 strictly.
    pub overcommit_memory: Option<u64>,
    /// Whether any process may have a userfaultfd that sees the kernel's faults: 1, or 0.
    pub unprivileged_userfaultfd: Option<u64>,
}

/// A resource limit of this process; `null` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimit {
    /// What holds now.
    pub soft: Option<u64>,
    /// Up to where the process may raise it by itself.
    pub hard: Option<u64>,
}

impl Limits {
    pub(super) fn read(tree: Tree<'_>) -> Self {
        let number = |name| tree.number(&format!("proc/sys/vm/{name}"));
        Self {
            max_map_count: number("max_map_count"),
            memlock: ResourceLimit::read(Resource::RLIMIT_MEMLOCK),
            nofile: ResourceLimit::read(Resource::RLIMIT_NOFILE),
            overcommit_memory: number("overcommit_memory"),
            unprivileged_userfaultfd: number("unprivileged_userfaultfd"),
        }
    }
}

impl ResourceLimit {
    fn read(resource: Resource) -> Option<Self> {
        let (soft, hard) = getrlimit(resource).ok()?;
        let finite = |limit| (limit != RLIM_INFINITY).then_some(limit);
        Some(Self { soft: finite(soft), hard: finite(hard) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::FakeTree;
    use super::*;

    #[test]
    fn settings_are_read_and_missing_ones_are_absent() {
        let fake = FakeTree::with(&[
            ("proc/sys/vm/max_map_count", "65530\n"),
            ("proc/sys/vm/overcommit_memory", "0\n"),
        ]);

        let found = Limits::read(fake.tree());

        assert_eq!(found.max_map_count, Some(65530));
        assert_eq!(found.overcommit_memory, Some(0));
        assert_eq!(found.unprivileged_userfaultfd, None);
    }

    #[test]
    fn this_process_may_open_files() {
        let nofile = ResourceLimit::read(Resource::RLIMIT_NOFILE).unwrap();

        assert_ne!(nofile.soft, Some(0));
    }
}
