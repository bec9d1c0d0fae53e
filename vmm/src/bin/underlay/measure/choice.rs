//! Which backings are measured, and which are not for what reason.

use guest_mem::{Backing, ByteSize, HugePagePool, HugePageSize, NumaError, UnavailableReason};
use vmm::{
    host,
    kvm::{Kvm, Vm},
    measure::{Plan, default_backings},
    report::Skipped,
};

use crate::{
    Outcome,
    failure::{Failure, is_users_choice},
};

/// What is measured, and what is not. A backing that was asked for by name must be there.
pub(super) fn choose(kvm: &Kvm, plan: &Plan, named: Vec<Backing>) -> Outcome<(Vec<Backing>, Vec<Skipped>)> {
    if !named.is_empty() {
        for backing in &named {
            available(kvm, plan, backing)?;
        }
        return Ok((named, Vec::new()));
    }
    let (mut backings, mut missing) = (Vec::new(), Vec::new());
    for backing in default_backings() {
        match fits(kvm, plan, &backing).and_then(|()| available(kvm, plan, &backing)) {
            Ok(()) => backings.push(backing),
            Err(reason) => missing.push(reason),
        }
    }
    if backings.is_empty() {
        return Err(none_of(missing));
    }
    let mut skipped: Vec<_> = missing.into_iter().map(Skipped::from).collect();
    skipped.push(Skipped {
        backing: "file:PATH".to_owned(),
        reason: "it needs a file".to_owned(),
        enable: Some(format!(
            "truncate -s {} /tmp/ram && underlay measure --backing file:/tmp/ram",
            plan.mem
        )),
    });
    Ok((backings, skipped))
}

/// No backing can be had. If no host could offer any, the user asked for the wrong thing.
fn none_of(missing: Vec<Missing>) -> Failure {
    let users = missing.iter().all(|missing| missing.users_choice);
    match missing.into_iter().next() {
        Some(first) if users => first.into(),
        _ => Failure::Host(anyhow::anyhow!("this host offers no backing; see `underlay host`")),
    }
}

/// A backing that cannot be had.
#[derive(Debug)]
struct Missing {
    backing: String,
    reason: String,
    enable: Option<String>,
    users_choice: bool,
}

impl From<Missing> for Skipped {
    fn from(missing: Missing) -> Self {
        Self { backing: missing.backing, reason: missing.reason, enable: missing.enable }
    }
}

impl From<Missing> for Failure {
    fn from(missing: Missing) -> Self {
        let Missing { backing, reason, enable, users_choice } = missing;
        let advice = enable.map(|enable| format!("; to change that: {enable}")).unwrap_or_default();
        let error = anyhow::anyhow!("cannot measure {backing}: {reason}{advice}");
        if users_choice { Self::User(error) } else { Self::Host(error) }
    }
}

/// Whether the RAM is whole pages of `backing`; if not, how to measure it all the same.
fn fits(kvm: &Kvm, plan: &Plan, backing: &Backing) -> Result<(), Missing> {
    let page = backing.page_size();
    if plan.mem.bytes().is_multiple_of(page) {
        return Ok(());
    }
    let larger = plan.mem.bytes().checked_next_multiple_of(page);
    let larger = larger.and_then(ByteSize::new).unwrap_or(plan.mem);
    let command = format!("underlay measure --mem {larger}");
    let reason = UnavailableReason::UnalignedSize { size: plan.mem, backing: backing.clone(), page };
    let with_larger = Plan { mem: larger, ..plan.clone() };
    let (reason, enable) = match available(kvm, &with_larger, backing) {
        Ok(()) => (reason.to_string(), Some(command)),
        Err(missing) => match missing.enable {
            Some(first) => (reason.to_string(), Some(format!("{first} && {command}"))),
            // No size would do.
            None => return Err(missing),
        },
    };
    Err(Missing { backing: backing.to_string(), reason, enable, users_choice: true })
}

fn available(kvm: &Kvm, plan: &Plan, backing: &Backing) -> Result<(), Missing> {
    let missing =
        |reason, enable, users_choice| Missing { backing: backing.to_string(), reason, enable, users_choice };
    backing.check_host(plan.mem).map_err(|unavailable| {
        let users_choice = is_users_choice(&unavailable.reason);
        missing(unavailable.reason.to_string(), unavailable.enable, users_choice)
    })?;
    if backing.is_managed() {
        if plan.prefault.is_some() {
            let reason = "--prefault has the kernel populate RAM, and underlay resolves its faults: --stock is what \
                          is made ready ahead";
            return Err(missing(reason.to_owned(), Some("leave --prefault out".to_owned()), true));
        }
        let faults = host::managed_faults();
        if let Some(reason) = faults.reason {
            return Err(missing(reason, faults.enable, false));
        }
    }
    if let Some(node) = plan.numa_node {
        if backing.is_managed() {
            let enable = format!("numactl --membind={node} underlay measure --backing {backing}");
            return Err(missing("its frames are not bound to a NUMA node".to_owned(), Some(enable), true));
        }
        if *backing == Backing::GuestMemfd {
            return Err(missing(NumaError::GuestMemfd.to_string(), None, true));
        }
        if let Some(size) = backing.hugetlb() {
            check_node_pool(plan.mem, size, node)
                .map_err(|(reason, enable)| missing(reason.to_string(), Some(enable), false))?;
        }
    }
    if *backing == Backing::GuestMemfd {
        let vm = Vm::create(kvm).map_err(|error| missing(error.to_string(), None, false))?;
        vm.check_guest_memfd()
            .map_err(|error| missing(error.to_string(), Some("use Linux 6.18 or newer".to_owned()), false))?;
    }
    Ok(())
}

/// Whether `node` has huge pages for `mem`; if not, the command that gives it some.
fn check_node_pool(mem: ByteSize, size: HugePageSize, node: u32) -> Result<(), (UnavailableReason, String)> {
    // Without such a node there is no pool to read. Whoever binds to it says so.
    let Ok(pool) = HugePagePool::read_on_node(size, node) else {
        return Ok(());
    };
    let needed = mem.bytes() / size.bytes();
    if pool.available() >= needed {
        return Ok(());
    }
    let pages = pool.total + (needed - pool.available());
    let enable = format!(
        "echo {pages} > /sys/devices/system/node/node{node}/hugepages/hugepages-{}kB/nr_hugepages",
        size.bytes() >> 10
    );
    Err((UnavailableReason::TooFewHugePages { needed, pool }, enable))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(backing: &str, users_choice: bool) -> Missing {
        Missing { backing: backing.to_owned(), reason: "of a reason".to_owned(), enable: None, users_choice }
    }

    #[test]
    fn if_every_backing_fails_for_the_users_reason_it_is_the_users_failure() {
        let users = none_of(vec![missing("a", true), missing("b", true)]);
        let hosts = none_of(vec![missing("a", true), missing("b", false)]);

        assert!(
            matches!(&users, Failure::User(error) if error.to_string().contains("a: of a reason")),
            "{users:?}"
        );
        assert!(matches!(hosts, Failure::Host(_)), "{hosts:?}");
    }
}
