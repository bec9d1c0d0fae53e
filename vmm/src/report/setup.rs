//! What a run was asked to do: only runs of the same setup are compared.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Run;
use super::format::{counted, size};

/// What a run was asked to do, but for the backing and the number of samples. The keys are those of [`Run`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// What ran the guest: `kvm` or `model`.
    #[serde(default = "super::schema::kvm")]
    pub accel: String,
    /// The guest's RAM.
    pub mem_bytes: u64,
    /// The size of the pages with which the guest maps it.
    pub guest_page_bytes: u64,
    /// How many vCPUs touched it.
    pub vcpus: u32,
    /// Whether each of them touched all of it.
    pub overlap: bool,
    /// `write`, `read` or `read-write`.
    pub access: String,
    /// `sequential`, `random` or `stride:BYTES`.
    pub pattern: String,
    /// Whether the host's pages were populated before the guest ran.
    pub prefault: bool,
    /// What selected the random order, if the pattern is random.
    pub seed: Option<u64>,
    /// The host's CPUs that the vCPU threads were pinned to, in turn.
    pub pin: Vec<usize>,
    /// The NUMA node that the RAM was bound to.
    pub numa_node: Option<u32>,
}

impl Setup {
    /// The setup of `run`.
    #[must_use]
    pub fn of(run: &Run) -> Self {
        Self {
            accel: run.accel.clone(),
            mem_bytes: run.mem_bytes,
            guest_page_bytes: run.guest_page_bytes,
            vcpus: run.vcpus,
            overlap: run.overlap,
            access: run.access.clone(),
            pattern: run.pattern.clone(),
            prefault: run.prefault,
            seed: run.seed,
            pin: run.pin.clone(),
            numa_node: run.numa_node,
        }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vcpus = counted(self.vcpus.into(), "vCPU");
        let share = match (self.vcpus, self.overlap) {
            (1, _) => "",
            (_, true) => " that touch all of it each",
            (_, false) => " that touch a part each",
        };
        let populated = if self.prefault { "prefaulted" } else { "not prefaulted" };
        write!(
            f,
            "{} of RAM, {populated}; guest pages {}; {vcpus}{share}; access {}, pattern {}",
            size(self.mem_bytes),
            size(self.guest_page_bytes),
            self.access,
            self.pattern,
        )?;
        if self.accel != "kvm" {
            write!(f, "; without KVM: --accel {}", self.accel)?;
        }
        if let Some(seed) = self.seed {
            write!(f, " with seed {seed}")?;
        }
        if !self.pin.is_empty() {
            let cpus: Vec<_> = self.pin.iter().map(usize::to_string).collect();
            write!(f, "; pinned to CPU {}", cpus.join(","))?;
        }
        if let Some(node) = self.numa_node {
            write!(f, "; NUMA node {node}")?;
        }
        Ok(())
    }
}

/// The items by their setup, both in the order of first appearance.
pub(super) fn by_setup<T>(items: &[T], setup: impl Fn(&T) -> Setup) -> Vec<(Setup, Vec<&T>)> {
    let mut groups: Vec<(Setup, Vec<&T>)> = Vec::new();
    for item in items {
        let key = setup(item);
        match groups.iter_mut().find(|(found, _)| *found == key) {
            Some((_, group)) => group.push(item),
            None => groups.push((key, vec![item])),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_setup_reads_as_a_phrase() {
        let alone = Setup::of(&fixture::report().runs[0]);
        let shared = Setup { vcpus: 4, overlap: true, prefault: true, ..alone.clone() };
        let split = Setup { vcpus: 4, ..alone.clone() };

        assert_eq!(
            alone.to_string(),
            "64 MiB of RAM, not prefaulted; guest pages 2 MiB; 1 vCPU; access write, pattern sequential"
        );
        assert_eq!(
            shared.to_string(),
            "64 MiB of RAM, prefaulted; guest pages 2 MiB; 4 vCPUs that touch all of it each; \
             access write, pattern sequential"
        );
        assert!(split.to_string().contains("; 4 vCPUs that touch a part each; "));
    }

    #[test]
    fn what_was_chosen_beyond_that_is_told() {
        let plain = fixture::report().runs.swap_remove(0);
        let chosen =
            Run { pattern: "random".to_owned(), seed: Some(7), pin: vec![0, 2], numa_node: Some(1), ..plain };

        let text = Setup::of(&chosen).to_string();

        assert!(text.ends_with("pattern random with seed 7; pinned to CPU 0,2; NUMA node 1"), "{text}");
    }

    #[test]
    fn runs_that_differ_in_one_choice_are_of_different_setups() {
        let plain = fixture::report().runs.swap_remove(0);
        let seeded = Run { seed: Some(1), ..plain.clone() };
        let pinned = Run { pin: vec![0], ..plain.clone() };
        let bound = Run { numa_node: Some(0), ..plain.clone() };

        let modelled = Run { accel: "model".to_owned(), ..plain.clone() };

        let groups = by_setup(&[plain, seeded, pinned, bound, modelled], Setup::of).len();

        assert_eq!(groups, 5);
    }

    #[test]
    fn groups_keep_the_order() {
        let mut runs = fixture::report().runs;
        runs.push(Run { backing: "again".to_owned(), ..runs[0].clone() });
        runs[1].vcpus = 2;

        let groups = by_setup(&runs, Setup::of);

        let backings: Vec<Vec<&str>> =
            groups.iter().map(|(_, runs)| runs.iter().map(|run| run.backing.as_str()).collect()).collect();
        assert_eq!(backings, [vec!["anonymous", "again"], vec!["anonymous_hugetlb_2mb"]]);
    }
}
