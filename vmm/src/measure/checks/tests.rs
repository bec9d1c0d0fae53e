use std::{num::NonZeroU32, time::Duration};

use guest_mem::{
    FaultCount, Mm, MmConfig, MmReport, MmStats, pgtable,
    pool::{FramePool, PoolConfig, PoolMemory},
};
use mmu_notifier::AddressRange;

use super::*;
use crate::{
    measure::{Pass, Timer, histogram},
    report::{HostFaults, KvmFaults, Mapped},
};

const PAGES: u64 = 1024;

fn pass(slow: u64, faults: u64) -> Pass {
    let mut ticks = histogram().unwrap();
    ticks.record_n(100, PAGES).unwrap();
    Pass {
        touches: PAGES,
        ticks,
        slow,
        wall_ns: 10_000_000,
        kvm_run_ns: 10_020_000,
        kvm: KvmFaults { pf_taken: faults + 1, pf_fixed: faults, pf_emulate: 1, ..KvmFaults::default() },
        host: HostFaults::default(),
    }
}

/// A sample of sequential writes that bears out everything, and its plan.
fn good() -> (Plan, Sample) {
    let plan = Plan::new("4M".parse().unwrap());
    let sample = Sample {
        first: pass(PAGES, PAGES),
        second: pass(3, 0),
        timer: Timer { cost: 50.0, step: 24 },
        enter_ns: 20_000,
        tsc_khz: NonZeroU32::new(2_000_000).unwrap(),
        mapped: Mapped { pages_4k: PAGES, ..Mapped::default() },
        resident_bytes: Some(4 << 20),
        cpu: Duration::from_millis(10),
        managed: None,
    };
    (plan, sample)
}

/// What a managed RAM did if all went well: half the pages faulted, the others were mapped beside them.
fn good_managed() -> ManagedSample {
    let count = |reason| match reason {
        FaultReason::Base | FaultReason::Around => PAGES / 2,
        _ => 0,
    };
    ManagedSample {
        faults: MmStats {
            faults: FaultReason::ALL.map(|reason| FaultCount { reason, count: count(reason) }),
        },
        handled: Some(PAGES / 2),
        mapped: pgtable::Mapped { base: PAGES, huge: 0 },
        stock_hits: PAGES,
        zeroed_at_take: 0,
        stock_wait: Duration::ZERO,
        memory: untouched(),
        stages: None,
    }
}

/// What an address space looks like that nobody has touched.
fn untouched() -> MmReport {
    let size = "4M".parse().unwrap();
    let pool = FramePool::new(&PoolConfig::new(PoolMemory::None, size)).unwrap();
    let range = AddressRange::new(0, size.bytes()).unwrap();
    Mm::modelled(&MmConfig::new(range), &pool).unwrap().report()
}

/// The names of the checks that fail when `spoil` has been at a good sample.
fn failed(spoil: impl FnOnce(&mut Plan, &mut Sample)) -> Vec<String> {
    let (mut plan, mut sample) = good();
    spoil(&mut plan, &mut sample);
    let checks = check_sample(&plan, &sample).into_iter();
    checks.filter(|check| !check.ok).map(|check| check.name).collect()
}

#[test]
fn a_good_sample_passes_all() {
    let (plan, sample) = good();

    assert_eq!(failed(|_, _| ()), [""; 0]);
    assert_eq!(check_sample(&plan, &sample).len(), 7);
}

#[test]
fn a_good_managed_sample_passes_all() {
    let (plan, mut sample) = good();
    sample.managed = Some(good_managed());

    let checks = check_sample(&plan, &sample);

    assert_eq!(checks.len(), 10);
    assert!(checks.iter().all(|check| check.ok), "{checks:?}");
}

#[test]
fn each_check_of_a_managed_sample_fails_when_its_figures_disagree() {
    let with = |spoil: fn(&mut ManagedSample)| {
        failed(|_, sample| {
            let mut managed = good_managed();
            spoil(&mut managed);
            sample.managed = Some(managed);
        })
    };

    assert_eq!(with(|managed| managed.handled = Some(PAGES)), ["managed_faults_counted"]);
    assert_eq!(with(|managed| managed.handled = None), [""; 0]);
    assert_eq!(with(|managed| managed.mapped.base -= 1), ["managed_mapping_adds_up"]);
    assert_eq!(with(|managed| managed.memory.replaced_handlers = 1), ["managed_faults_resolved"]);
    assert_eq!(with_count(FaultReason::GaveUp), ["managed_faults_resolved"]);
    assert_eq!(with_count(FaultReason::FillLate), ["managed_faults_resolved"]);
    assert_eq!(with_count(FaultReason::Failed), ["managed_faults_counted", "managed_faults_resolved"]);
}

/// The names of the checks that fail when `reason` was counted once more.
fn with_count(reason: FaultReason) -> Vec<String> {
    failed(|_, sample| {
        let mut managed = good_managed();
        managed.faults.faults[reason as usize].count += 1;
        sample.managed = Some(managed);
    })
}

#[test]
fn each_check_fails_when_its_figures_disagree() {
    assert_eq!(failed(|_, sample| sample.second.ticks.clear()), ["touches_recorded"]);
    assert_eq!(failed(|_, sample| sample.first.touches -= 1), ["touches_recorded"]);
    assert_eq!(failed(|_, sample| sample.first.kvm.pf_spurious = 1), ["faults_add_up"]);
    assert_eq!(failed(|_, sample| sample.mapped.pages_4k -= 1), ["mapping_covers_touches"]);
    assert_eq!(failed(|_, sample| sample.first.slow = PAGES * 2), ["slow_touches_match_faults"]);
    assert_eq!(failed(|_, sample| sample.first.slow = PAGES / 2), ["slow_touches_match_faults"]);
    assert_eq!(failed(|_, sample| sample.second = pass(0, 1)), ["second_touch_is_quiet"]);
    assert_eq!(failed(|_, sample| sample.resident_bytes = Some(8 << 20)), ["nothing_doubled"]);
    assert_eq!(failed(|_, sample| sample.first.kvm_run_ns *= 2), ["wall_matches_kvm_run"]);
}

#[test]
fn a_touch_that_reads_and_writes_may_take_three_faults_but_not_four() {
    let with = |faults| {
        failed(|plan, sample| {
            plan.access = Access::ReadWrite;
            sample.first = pass(PAGES, faults);
        })
    };

    assert_eq!(with(3 * PAGES), [""; 0]);
    assert_eq!(with(4 * PAGES), ["slow_touches_match_faults"]);
}

#[test]
fn a_short_run_is_not_blamed_for_the_way_into_the_guest() {
    let short = |plain| {
        failed(|_, sample| {
            sample.first.wall_ns = 20_000;
            sample.first.kvm_run_ns = plain;
        })
    };

    assert_eq!(short(55_000), [""; 0]);
    assert_eq!(short(80_000), ["wall_matches_kvm_run"]);
}

#[test]
fn several_samples_fail_together_with_the_first_that_does() {
    let of = |ok, detail: &str| vec![check("a", ok, detail.to_owned())];
    let samples = [of(true, "one"), of(false, "two"), of(false, "three")];

    let combined = combine(&samples, 0);

    assert_eq!(combined[0].detail, "two (2 of 3 samples disagree)");
    assert!(!combined[0].ok);
    assert_eq!(combine(&samples[..1], 0)[0].detail, "one");
}
