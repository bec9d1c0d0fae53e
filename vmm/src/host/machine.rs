//! The machine: its kernel, its processor and its memory.

use serde::{Deserialize, Serialize};

use super::tree::Tree;

const CPUINFO: &str = "proc/cpuinfo";

/// The machine; `null` where the kernel does not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The kernel's release.
    pub kernel: Option<String>,
    /// The processor's model name.
    pub cpu: Option<String>,
    /// How many CPUs are online.
    pub cpus: Option<u64>,
    /// Bytes of RAM that the kernel manages.
    pub ram_bytes: Option<u64>,
    /// Bytes of RAM that new work could have without swapping, as the kernel estimates.
    pub ram_available_bytes: Option<u64>,
}

impl Machine {
    pub(super) fn read(tree: Tree<'_>) -> Self {
        let memory = |name| {
            let value = tree.field("proc/meminfo", name)?;
            let kibibytes: u64 = value.strip_suffix(" kB")?.trim().parse().ok()?;
            kibibytes.checked_mul(1024)
        };
        let is_cpu = |line: &&str| line.split(':').next().is_some_and(|key| key.trim() == "processor");
        let cpus = tree.text(CPUINFO).map(|text| text.lines().filter(is_cpu).count() as u64);
        Self {
            kernel: tree.text("proc/sys/kernel/osrelease"),
            cpu: tree.field(CPUINFO, "model name"),
            cpus,
            ram_bytes: memory("MemTotal"),
            ram_available_bytes: memory("MemAvailable"),
        }
    }
}

/// Whether the processor has the feature that the kernel calls `flag`; `None` where the kernel does not say.
pub(super) fn has_cpu_flag(tree: Tree<'_>, flag: &str) -> Option<bool> {
    let flags = tree.field(CPUINFO, "flags")?;
    Some(flags.split_whitespace().any(|word| word == flag))
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::FakeTree;
    use super::*;

    #[test]
    fn the_machine_is_read() {
        let fake = FakeTree::with(&[
            ("proc/sys/kernel/osrelease", "6.18.0\n"),
            (
                "proc/cpuinfo",
                "processor\t: 0\nmodel name\t: Some: CPU\nflags\t\t: fpu vmx\n\nprocessor\t: 1\nmodel name\t: Some: CPU\n",
            ),
            ("proc/meminfo", "MemTotal:       2048 kB\nMemAvailable:   1024 kB\n"),
        ]);

        let machine = Machine::read(fake.tree());

        let expected = Machine {
            kernel: Some("6.18.0".into()),
            cpu: Some("Some: CPU".into()),
            cpus: Some(2),
            ram_bytes: Some(2 << 20),
            ram_available_bytes: Some(1 << 20),
        };
        assert_eq!(machine, expected);
        assert_eq!(has_cpu_flag(fake.tree(), "vmx"), Some(true));
        assert_eq!(has_cpu_flag(fake.tree(), "vm"), Some(false));
    }

    #[test]
    fn an_empty_tree_says_nothing() {
        let fake = FakeTree::with(&[]);

        let machine = Machine::read(fake.tree());

        assert_eq!((machine.kernel, machine.cpus, machine.ram_bytes), (None, None, None));
        assert_eq!(has_cpu_flag(fake.tree(), "vmx"), None);
    }
}
