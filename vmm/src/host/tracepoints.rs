//! KVM's tracepoints.

use std::{collections::BTreeMap, io};

use serde::{Deserialize, Serialize};

use super::{Offer, tree::Tree};

const NAME: &str = "tracefs";
const MOUNT: &str = "mount -t tracefs tracefs /sys/kernel/tracing";
/// The groups of events that KVM has.
const GROUPS: [&str; 2] = ["kvm", "kvmmmu"];

/// The events that tell of guest memory: entries, exits, faults, what is mapped, what is unmapped.
const WANTED: [&str; 9] = [
    "kvm:kvm_entry",
    "kvm:kvm_exit",
    "kvm:kvm_page_fault",
    "kvm:kvm_unmap_hva_range",
    "kvm:kvm_age_hva",
    "kvmmmu:kvm_mmu_spte_requested",
    "kvmmmu:kvm_mmu_set_spte",
    "kvmmmu:fast_page_fault",
    "kvmmmu:kvm_tdp_mmu_spte_changed",
];

/// The tracepoints of KVM that exist. **That one exists does not say that it fires**: some vendor modules never come
/// to the code that holds it. Whether it does is found out by enabling it while a guest runs, which a survey does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracepoints {
    /// Whether the file system that lists them can be read.
    pub tracefs: Offer,
    /// Those that tell of guest memory, and whether each exists; empty where tracefs cannot be read.
    pub wanted: BTreeMap<String, bool>,
    /// Every event of KVM's, as `group:event`, sorted.
    pub all: Vec<String>,
}

impl Tracepoints {
    /// Lists the events. Mounts nothing.
    pub(super) fn read(tree: Tree<'_>) -> Self {
        match events(tree) {
            Ok(all) => Self {
                tracefs: Offer::yes(NAME),
                wanted: WANTED
                    .into_iter()
                    .map(|event| (event.to_owned(), all.iter().any(|found| found == event)))
                    .collect(),
                all,
            },
            Err(tracefs) => Self { tracefs, wanted: BTreeMap::new(), all: Vec::new() },
        }
    }
}

fn events(tree: Tree<'_>) -> Result<Vec<String>, Offer> {
    let Some(mount) = mount_point(tree) else {
        let known = tree.text("proc/filesystems").unwrap_or_default();
        return Err(if known.split_whitespace().any(|word| word == NAME) {
            Offer::no(NAME, "it is not mounted").enabled_by(MOUNT)
        } else {
            Offer::no(NAME, "this kernel was built without it")
        });
    };
    let groups = format!("{}/events", mount.trim_start_matches('/'));
    let present = tree.names(&groups).map_err(|error| unreadable(&mount, &error))?;
    let mut all = Vec::new();
    for group in GROUPS.into_iter().filter(|group| present.iter().any(|name| name == group)) {
        let names = tree.names(&format!("{groups}/{group}")).map_err(|error| unreadable(&mount, &error))?;
        // Beside its events a group holds the files that switch it as a whole.
        let events = names.into_iter().filter(|name| !matches!(name.as_str(), "enable" | "filter"));
        all.extend(events.map(|event| format!("{group}:{event}")));
    }
    Ok(all)
}

/// Where tracefs is mounted. Looking for its usual directories instead could mount it: debugfs does that by itself.
fn mount_point(tree: Tree<'_>) -> Option<String> {
    let mounts = tree.text("proc/self/mounts")?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (directory, kind) = (fields.next()?, fields.next()?);
        (kind == NAME).then(|| directory.to_owned())
    })
}

fn unreadable(mount: &str, error: &io::Error) -> Offer {
    let offer = Offer::no(NAME, format!("{mount} cannot be read: {error}"));
    match error.kind() {
        io::ErrorKind::PermissionDenied => offer.enabled_by(format!("mount -o remount,mode=755 {mount}")),
        _ => offer,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::FakeTree;
    use super::*;

    const MOUNTED: (&str, &str) =
        ("proc/self/mounts", "proc /proc proc rw 0 0\ntracefs /sys/kernel/tracing tracefs rw 0 0\n");

    #[test]
    fn events_of_kvm_are_listed() {
        let fake = FakeTree::with(&[
            MOUNTED,
            ("sys/kernel/tracing/events/kvm/enable", ""),
            ("sys/kernel/tracing/events/kvm/kvm_exit/id", "1"),
            ("sys/kernel/tracing/events/kvmmmu/kvm_mmu_set_spte/id", "2"),
            ("sys/kernel/tracing/events/sched/sched_switch/id", "3"),
        ]);

        let found = Tracepoints::read(fake.tree());

        assert!(found.tracefs.available);
        assert_eq!(found.all, ["kvm:kvm_exit", "kvmmmu:kvm_mmu_set_spte"]);
        assert!(found.wanted["kvm:kvm_exit"] && !found.wanted["kvm:kvm_entry"]);
        assert_eq!(found.wanted.len(), WANTED.len());
    }

    #[test]
    fn a_kernel_whose_kvm_is_not_loaded_has_no_events() {
        let fake = FakeTree::with(&[MOUNTED, ("sys/kernel/tracing/events/sched/enable", "")]);

        let found = Tracepoints::read(fake.tree());

        assert!(found.tracefs.available && found.all.is_empty());
        assert!(found.wanted.values().all(|exists| !exists));
    }

    #[test]
    fn what_is_not_mounted_comes_with_the_command_that_mounts_it() {
        let fake = FakeTree::with(&[
            ("proc/self/mounts", "proc /proc proc rw 0 0\n"),
            ("proc/filesystems", "nodev\tproc\nnodev\ttracefs\n"),
        ]);

        let found = Tracepoints::read(fake.tree());

        assert_eq!(found.tracefs.enable.as_deref(), Some(MOUNT));
        assert!(found.wanted.is_empty());
    }

    #[test]
    fn a_kernel_without_tracefs_has_nothing_to_mount() {
        let found = Tracepoints::read(FakeTree::with(&[("proc/filesystems", "\text4\n")]).tree());

        assert!(!found.tracefs.available);
        assert_eq!(found.tracefs.enable, None);
    }

    #[test]
    fn a_mount_that_is_closed_is_not_called_missing() {
        let offer = unreadable("/t", &io::ErrorKind::PermissionDenied.into());

        assert_eq!(offer.enable.as_deref(), Some("mount -o remount,mode=755 /t"));
        assert!(offer.reason.unwrap().starts_with("/t cannot be read"));
    }
}
