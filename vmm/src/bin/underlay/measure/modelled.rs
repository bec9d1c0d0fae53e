//! Which backings are measured without KVM: those whose faults this process resolves itself.

use guest_mem::Backing;
use vmm::measure::Plan;

use crate::{Outcome, failure::Failure};

/// The backings that were named, or all that can be had. Nothing is asked of the host: the frames are numbers.
pub(super) fn choose_modelled(plan: &Plan, named: Vec<Backing>) -> Outcome<Vec<Backing>> {
    if plan.prefault.is_some() || plan.numa_node.is_some() {
        return Err(refused("--prefault and --numa-node are about memory, of which --accel model has none"));
    }
    let all = || Backing::NAMED.iter().filter(|backing| backing.is_managed());
    if let Some(other) = named.iter().find(|backing| !backing.is_managed()) {
        let usable: Vec<_> = all().map(Backing::name).collect();
        return Err(refused(&format!(
            "cannot measure {other} with --accel model: the kernel resolves its faults; use {}, or --accel kvm",
            usable.join(", ")
        )));
    }
    let cut = |backing: &Backing| !plan.mem.bytes().is_multiple_of(backing.page_size());
    if let Some(backing) = named.iter().find(|backing| cut(backing)) {
        let page = backing.page_size();
        return Err(refused(&format!("{} is no multiple of the pages of {backing}, {page} bytes", plan.mem)));
    }
    if named.is_empty() {
        return Ok(all().filter(|backing| !cut(backing)).cloned().collect());
    }
    Ok(named)
}

fn refused(reason: &str) -> Failure {
    Failure::User(anyhow::anyhow!("{reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(mem: &str, named: &[Backing]) -> Outcome<Vec<Backing>> {
        choose_modelled(&Plan::new(mem.parse().unwrap()), named.to_vec())
    }

    #[test]
    fn without_names_all_managed_backings_that_fit_are_measured() {
        let all = chosen("4M", &[]).unwrap();
        let small = chosen("4K", &[]).unwrap();

        assert!(all.contains(&Backing::Managed2mb) && all.iter().all(Backing::is_managed));
        assert!(small.contains(&Backing::Managed4kb) && !small.contains(&Backing::Managed2mb));
    }

    #[test]
    fn what_the_kernel_resolves_is_the_users_mistake() {
        let result = chosen("4M", &[Backing::Managed4kb, Backing::Anonymous]);

        assert!(
            matches!(&result, Err(Failure::User(error)) if error.to_string().contains("anonymous")),
            "{result:?}"
        );
    }

    #[test]
    fn memory_that_is_cut_and_choices_of_memory_are_refused() {
        let plan = Plan { numa_node: Some(0), ..Plan::new("4M".parse().unwrap()) };

        assert!(matches!(chosen("3M", &[Backing::Managed2mb]), Err(Failure::User(_))));
        assert!(matches!(choose_modelled(&plan, Vec::new()), Err(Failure::User(_))));
    }
}
