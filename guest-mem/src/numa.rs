//! Binding guest RAM to one NUMA node.

use std::io;

use crate::host_files::{HostFileError, HostFiles};

const NODES: &str = "sys/devices/system/node";

/// Why RAM cannot be bound to a NUMA node.
#[derive(Debug, thiserror::Error)]
pub enum NumaError {
    /// The machine has no such node.
    #[error("there is no NUMA node {node}; the nodes with memory are {with_memory:?}")]
    NoSuchNode {
        /// The node asked for.
        node: u32,
        /// The nodes that could be asked for.
        with_memory: Vec<u32>,
    },
    /// The node has processors but no memory.
    #[error("NUMA node {node} has no memory; the nodes with memory are {with_memory:?}")]
    NoMemory {
        /// The node asked for.
        node: u32,
        /// The nodes that could be asked for.
        with_memory: Vec<u32>,
    },
    /// The kernel was built without NUMA support.
    #[error("this kernel has no NUMA support; leave the node out")]
    Unsupported,
    /// KVM allocates the pages of a `guest_memfd` by the policy of the thread that faults, not by the mapping's.
    #[error(
        "the pages of a guest_memfd cannot be bound by its mapping; start the process under numactl --membind"
    )]
    GuestMemfd,
    /// The nodes of the machine cannot be read.
    #[error("cannot find out which NUMA nodes there are")]
    Unreadable(#[source] HostFileError),
    /// The kernel refused the policy.
    #[error("cannot bind guest RAM to NUMA node {node}")]
    Bind {
        /// The node asked for.
        node: u32,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// How many nodes of the machine have memory; `node` is one of them.
pub(crate) fn check_node(files: HostFiles<'_>, node: u32) -> Result<usize, NumaError> {
    let read = |name: &str| {
        files.list(format!("{NODES}/{name}")).map_err(|error| {
            if error.is_missing() { NumaError::Unsupported } else { NumaError::Unreadable(error) }
        })
    };
    let with_memory = read("has_memory")?;
    if with_memory.contains(&node) {
        Ok(with_memory.len())
    } else if read("online")?.contains(&node) {
        Err(NumaError::NoMemory { node, with_memory })
    } else {
        Err(NumaError::NoSuchNode { node, with_memory })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_files::tests::FakeHost;

    #[test]
    fn a_node_must_exist_and_have_memory() {
        let host = FakeHost::with(&[
            ("sys/devices/system/node/online", "0-2\n"),
            ("sys/devices/system/node/has_memory", "0,2\n"),
        ]);
        let check = |node| check_node(host.files(), node);

        assert_eq!(check(2).unwrap(), 2);
        assert!(matches!(check(1), Err(NumaError::NoMemory { node: 1, .. })));
        assert!(matches!(check(3), Err(NumaError::NoSuchNode { node: 3, .. })));
        assert!(check(3).unwrap_err().to_string().contains("[0, 2]"));
    }

    #[test]
    fn a_kernel_without_numa_says_so() {
        let host = FakeHost::with(&[]);
        assert!(matches!(check_node(host.files(), 0), Err(NumaError::Unsupported)));
    }
}
