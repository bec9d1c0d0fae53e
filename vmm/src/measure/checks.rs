//! What the figures of a sample must bear out. A disagreement is shown, not hidden.

use guest_mem::FaultReason;

use super::{ManagedSample, Plan, Sample};
use crate::{driver::Access, report::Check};

/// How far the guest's own wall time may be from a plain timer around KVM_RUN, beside the way in and out.
const WALL_TOLERANCE: f64 = 0.10;
/// How far the number of slow touches may be from the number of faults.
const SLOW_TOLERANCE: f64 = 0.02;
/// How many touches a millisecond may be slow for want of the processor: an interrupt of the host in the middle of a
/// touch looks like a fault.
const INTERRUPTS_PER_MS: u64 = 2;
/// Below so many, a rate says nothing.
const SLOW_FLOOR: u64 = 16;

/// Every check of one sample, always the same ones in the same order.
#[must_use]
pub fn check_sample(plan: &Plan, sample: &Sample) -> Vec<Check> {
    let mut checks = vec![
        touches_recorded(plan, sample),
        faults_add_up(plan, sample),
        mapping_covers_touches(plan, sample),
        slow_touches_match_faults(plan, sample),
        second_touch_is_quiet(sample),
        nothing_doubled(plan, sample),
    ];
    if let Some(managed) = &sample.managed {
        checks.extend(managed_checks(managed));
    }
    if plan.vcpus == 1 {
        checks.push(wall_matches_kvm_run(sample));
    }
    checks
}

/// The checks of a sample of the software second stage: those that need no clock of a guest's, and no KVM.
#[must_use]
pub fn check_model_sample(plan: &Plan, sample: &Sample) -> Vec<Check> {
    vec![
        touches_recorded(plan, sample),
        faults_add_up(plan, sample),
        mapping_covers_touches(plan, sample),
        second_touch_is_quiet(sample),
        nothing_doubled(plan, sample),
    ]
}

/// The checks of several samples as one: failed if any sample disagrees, with the figures of the first that does,
/// else with those of `shown`.
#[must_use]
pub fn combine(samples: &[Vec<Check>], shown: usize) -> Vec<Check> {
    let Some(template) = samples.get(shown) else {
        return Vec::new();
    };
    let combined = template.iter().enumerate().map(|(index, check)| {
        let mut failed = samples.iter().filter_map(|checks| checks.get(index)).filter(|check| !check.ok);
        match failed.next() {
            None => check.clone(),
            Some(first) => {
                let count = 1 + failed.count();
                let detail = format!("{} ({count} of {} samples disagree)", first.detail, samples.len());
                Check { detail, ..first.clone() }
            }
        }
    });
    combined.collect()
}

fn check(name: &str, ok: bool, detail: String) -> Check {
    Check { name: name.to_owned(), ok, detail }
}

fn touches_recorded(plan: &Plan, sample: &Sample) -> Check {
    let planned = plan.touches();
    let (first, second) = (sample.first.ticks.len(), sample.second.ticks.len());
    let made = (sample.first.touches, sample.second.touches);
    let ok = [first, second, made.0, made.1].iter().all(|count| *count == planned);
    let detail = format!(
        "planned {planned}; first touches made {} and recorded {first}; second made {} and recorded {second}",
        made.0, made.1
    );
    check("touches_recorded", ok, detail)
}

fn faults_add_up(plan: &Plan, sample: &Sample) -> Check {
    let kvm = sample.first.kvm;
    let ended = kvm.pf_fixed + kvm.pf_spurious + kvm.pf_emulate;
    let rest = kvm.pf_taken.checked_sub(ended);
    let rest_text = match rest {
        None => "less than nothing".to_owned(),
        Some(0) => "0".to_owned(),
        Some(rest) => format!(
            "{rest} retried after they lost a race with an invalidation or a page that was not there yet, or were the \
             guest's own (pf_guest {})",
            kvm.pf_guest
        ),
    };
    let detail = format!(
        "pf_taken {} = pf_fixed {} + pf_spurious {} + pf_emulate {} (doorbells: {}) + rest {rest_text}",
        kvm.pf_taken, kvm.pf_fixed, kvm.pf_spurious, kvm.pf_emulate, plan.vcpus
    );
    check("faults_add_up", rest.is_some(), detail)
}

fn mapping_covers_touches(plan: &Plan, sample: &Sample) -> Check {
    let mapped = sample.mapped;
    let touched = plan.touched_bytes();
    let detail = format!(
        "{} x 4K + {} x 2M + {} x 1G = {} bytes mapped, {touched} bytes touched",
        mapped.pages_4k,
        mapped.pages_2m,
        mapped.pages_1g,
        mapped.bytes()
    );
    check("mapping_covers_touches", mapped.bytes() >= touched, detail)
}

/// A first write or read of a page that is not there takes one fault. One that reads first, or finds a page that may
/// only be read, takes more: the second is for writing, and the host may copy the page in between.
const fn most_faults_per_touch(plan: &Plan) -> u64 {
    match plan.access {
        Access::Write | Access::Read if plan.prefault.is_none() => 1,
        _ => 3,
    }
}

fn slow_touches_match_faults(plan: &Plan, sample: &Sample) -> Check {
    let (slow, faults) = (sample.first.slow, sample.first.faults());
    let most = most_faults_per_touch(plan);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "counts far below 2^53"
    )]
    let tolerance = (slow.max(faults) as f64 * SLOW_TOLERANCE) as u64;
    let noise = SLOW_FLOOR + tolerance + sample.first.wall_ns / 1_000_000 * INTERRUPTS_PER_MS;
    let ok = slow <= faults + noise && faults <= (slow + noise) * most;
    let detail = format!(
        "the guest saw {slow} touches above 1 µs, KVM counted {faults} faults without doorbells; a touch may take {most}, \
         and {noise} may be the host's interrupts"
    );
    check("slow_touches_match_faults", ok, detail)
}

fn second_touch_is_quiet(sample: &Sample) -> Check {
    let faults = sample.second.faults();
    let detail = format!("{faults} faults during {} second touches", sample.second.touches);
    check("second_touch_is_quiet", faults == 0, detail)
}

fn nothing_doubled(plan: &Plan, sample: &Sample) -> Check {
    let guest = plan.mem.bytes();
    match sample.resident_bytes {
        Some(resident) => check(
            "nothing_doubled",
            resident <= guest,
            format!("{resident} bytes resident of {guest} guest bytes"),
        ),
        None => check("nothing_doubled", true, "the host has no true figure of what is resident".to_owned()),
    }
}

fn managed_checks(managed: &ManagedSample) -> [Check; 3] {
    let (handled, ended) = (managed.handled, managed.ended());
    let handled_text = handled.map_or_else(|| "too many to trace".to_owned(), |handled| handled.to_string());
    let detail =
        format!("{handled_text} faults taken from userfaultfd, {ended} came to an end that is counted");
    let counted = check("managed_faults_counted", handled.is_none_or(|handled| handled == ended), detail);

    let lost = [FaultReason::GaveUp, FaultReason::Failed, FaultReason::FillFailed, FaultReason::FillLate];
    let lost_text: Vec<_> =
        lost.iter().map(|reason| format!("{} {}", reason.name(), managed.faults.of(*reason))).collect();
    let replaced = managed.memory.replaced_handlers;
    let detail = format!("{}, handlers replaced {replaced}", lost_text.join(", "));
    let resolved = check("managed_faults_resolved", managed.count(&lost) + replaced == 0, detail);

    let made = managed.count(&[FaultReason::Base, FaultReason::Huge, FaultReason::Around]);
    let mapped = managed.mapped;
    // A filler maps its pages by a count of its own.
    let agrees = made == mapped.base + mapped.huge || managed.faults.of(FaultReason::Filled) > 0;
    let detail = format!("{made} pages mapped by faults, {} x 4K + {} x 2M mapped", mapped.base, mapped.huge);
    [counted, resolved, check("managed_mapping_adds_up", agrees, detail)]
}

fn wall_matches_kvm_run(sample: &Sample) -> Check {
    let (wall, plain, enter) = (sample.first.wall_ns, sample.first.kvm_run_ns, sample.enter_ns);
    // The timer sees the way in and out as well, which varies by about as much as it takes.
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of one run")]
    let (apart, allowed) = (plain.abs_diff(wall) as f64, plain as f64 * WALL_TOLERANCE + 2.0 * enter as f64);
    let detail = format!(
        "{wall} ns by the guest's counter, {plain} ns around KVM_RUN, of which about {enter} ns are the way in and out"
    );
    check("wall_matches_kvm_run", apart <= allowed, detail)
}

#[cfg(test)]
mod tests;
