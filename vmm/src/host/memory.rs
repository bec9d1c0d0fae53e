//! Huge pages: the pools of the hugetlb allocator, and how transparent ones are made.

use guest_mem::{HugePagePool, HugePageSize};
use serde::{Deserialize, Serialize};

use super::tree::Tree;

const THP: &str = "sys/kernel/mm/transparent_hugepage";

/// A pool of the hugetlb allocator, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePages {
    /// How many there are, surplus ones included.
    pub total: u64,
    /// How many of them nobody uses, reserved ones included.
    pub free: u64,
    /// How many of the free ones are promised to mappings.
    pub reserved: u64,
    /// How many overcommit has added.
    pub surplus: u64,
    /// How many overcommit may add.
    pub overcommit: u64,
}

impl HugePages {
    /// The machine's pool of pages of `size`; `None` where there is none.
    pub(super) fn read(size: HugePageSize) -> Option<Self> {
        HugePagePool::read(size).ok().map(Self::from)
    }
}

impl From<HugePagePool> for HugePages {
    fn from(pool: HugePagePool) -> Self {
        Self {
            total: pool.total,
            free: pool.free,
            reserved: pool.reserved,
            surplus: pool.surplus,
            overcommit: pool.overcommit,
        }
    }
}

/// How this kernel makes transparent huge pages; `null` where it has no such setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransparentHugePages {
    /// For anonymous memory: `always`, `madvise` or `never`.
    pub enabled: Option<String>,
    /// For shmem: `always`, `within_size`, `advise`, `never`, `deny` or `force`.
    pub shmem_enabled: Option<String>,
    /// What a fault does where no huge page is free: `always`, `defer`, `defer+madvise`, `madvise` or `never`.
    pub defrag: Option<String>,
    /// The thread that collapses base pages into huge ones.
    pub khugepaged: Khugepaged,
}

/// The settings of khugepaged; `null` where this kernel has no such setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Khugepaged {
    /// Whether it compacts memory to get a huge page: 1, or 0.
    pub defrag: Option<u64>,
    /// How many pages it looks at before it sleeps.
    pub pages_to_scan: Option<u64>,
    /// How many milliseconds it sleeps between two passes.
    pub scan_sleep_millisecs: Option<u64>,
    /// How many milliseconds it sleeps after it got no huge page.
    pub alloc_sleep_millisecs: Option<u64>,
    /// How many pages of a collapsed range may be missing.
    pub max_ptes_none: Option<u64>,
    /// How many of them may be in swap.
    pub max_ptes_swap: Option<u64>,
    /// How many of them may be shared.
    pub max_ptes_shared: Option<u64>,
}

impl TransparentHugePages {
    pub(super) fn read(tree: Tree<'_>) -> Self {
        let choice = |name| tree.choice(&format!("{THP}/{name}"));
        let number = |name| tree.number(&format!("{THP}/khugepaged/{name}"));
        Self {
            enabled: choice("enabled"),
            shmem_enabled: choice("shmem_enabled"),
            defrag: choice("defrag"),
            khugepaged: Khugepaged {
                defrag: number("defrag"),
                pages_to_scan: number("pages_to_scan"),
                scan_sleep_millisecs: number("scan_sleep_millisecs"),
                alloc_sleep_millisecs: number("alloc_sleep_millisecs"),
                max_ptes_none: number("max_ptes_none"),
                max_ptes_swap: number("max_ptes_swap"),
                max_ptes_shared: number("max_ptes_shared"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::FakeTree;
    use super::*;

    #[test]
    fn settings_are_read_and_missing_ones_are_absent() {
        let fake = FakeTree::with(&[
            (&format!("{THP}/enabled"), "always [madvise] never\n"),
            (&format!("{THP}/defrag"), "always defer [defer+madvise] madvise never\n"),
            (&format!("{THP}/khugepaged/defrag"), "1\n"),
            (&format!("{THP}/khugepaged/scan_sleep_millisecs"), "10000\n"),
        ]);

        let found = TransparentHugePages::read(fake.tree());

        assert_eq!(found.enabled.as_deref(), Some("madvise"));
        assert_eq!(found.shmem_enabled, None);
        assert_eq!(found.defrag.as_deref(), Some("defer+madvise"));
        assert_eq!(found.khugepaged.defrag, Some(1));
        assert_eq!(found.khugepaged.scan_sleep_millisecs, Some(10000));
        assert_eq!(found.khugepaged.max_ptes_none, None);
    }
}
