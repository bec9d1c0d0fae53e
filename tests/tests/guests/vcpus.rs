//! One, two and four vCPUs: no touch is lost, whoever makes it and however.

use guest_mem::{Backing, HugePageSize};
use underlay_tests::{Need, Suite, huge_pages};
use vmm::{
    driver::{Access, Command, Op, Record},
    interrupt::Interrupt,
    kvm::Kvm,
    machine::{Machine, MachineConfig},
    measure::{Pattern, Plan, Sample, access_name},
};

use super::{
    backings::assert_checks,
    support::{M, PAGE, config, machine, plan, touches, words},
};

pub(crate) fn add_to(suite: &mut Suite) {
    for vcpus in [1, 2, 4] {
        for (backing, need) in several() {
            let needs: Vec<_> = [Need::Kvm].into_iter().chain(need).collect();
            let name = format!("vcpus_{vcpus}::{backing}_filled_together_verified_crosswise");
            suite.test(name, &needs, move || fill_together(&backing, vcpus));
        }
        for access in [Access::Write, Access::Read, Access::ReadWrite] {
            for overlap in [false, true] {
                let how = if overlap { "shared" } else { "split" };
                let name = format!("vcpus_{vcpus}::{}_{how}_touches_all", access_name(access));
                suite.test(name, &[Need::Kvm], move || {
                    touch_all(vcpus, access, overlap);
                });
            }
        }
    }
    suite.test("patterns::random_and_stride_touch_all", &[Need::Kvm], patterns);
    suite.test("records::a_histogram_counts_every_touch", &[Need::Kvm], histogram);
    suite.test("records::a_sample_that_the_guest_did_not_write_is_missing", &[Need::Kvm], short_of_samples);
    suite.test("passes::are_repeated_and_recorded_in_order", &[Need::Kvm], passes);
}

/// One of each kind of memory.
fn several() -> [(Backing, Option<Need>); 4] {
    let pages = Need::HugePages(HugePageSize::Mb2, 8);
    [
        (Backing::Anonymous, None),
        (Backing::AnonymousThp, Some(Need::Thp)),
        (Backing::Shmem, None),
        (Backing::SharedHugetlb2mb, Some(pages)),
    ]
}

fn fill_together(backing: &Backing, vcpus: u32) {
    let bytes = 16 * M;
    let _pages = huge_pages(backing, bytes);
    let mut machine = machine(backing.clone(), bytes, vcpus);
    let part = bytes / u64::from(vcpus);
    let each = |op, shift: u64| -> Vec<_> {
        let owner = |id: u32| (u64::from(id) + shift) % u64::from(vcpus);
        (0..vcpus).map(|id| words(op, owner(id) * part, part, owner(id))).collect()
    };

    machine.run(&each(Op::Fill, 0)).unwrap();

    // Each verifies what its neighbour wrote, under its neighbour's seed.
    for done in machine.run(&each(Op::Verify, 1)).unwrap() {
        assert_eq!((done.outcome.touches, done.outcome.mismatches), (part / 8, 0));
    }
}

#[track_caller]
fn sample(plan: &Plan) -> Sample {
    let (kvm, interrupt) = (Kvm::open().unwrap(), Interrupt::new().unwrap());
    Sample::take(&kvm, plan, &Backing::Anonymous, 1, &interrupt, None).unwrap()
}

fn touch_all(vcpus: u32, access: Access, overlap: bool) {
    let plan = Plan { vcpus, access, overlap, ..plan(8 * M) };

    let sample = sample(&plan);

    let pages = 8 * M / PAGE;
    let touches = if overlap { pages * u64::from(vcpus) } else { pages };
    assert_eq!((sample.first.touches, sample.second.touches), (touches, touches));
    assert_eq!(sample.mapped.pages_4k, pages, "each page is mapped once, whoever came first");
    assert_checks(&plan, &sample);
}

fn patterns() {
    for (pattern, touches, pages) in [
        (Pattern::Random, 2048, 2048),
        (Pattern::Stride(64), 131_072, 2048),
        (Pattern::Stride(3 * PAGE), 682, 682),
    ] {
        let plan = Plan { pattern, ..plan(8 * M) };

        let sample = sample(&plan);

        assert_eq!(sample.first.touches, touches, "{pattern}");
        assert_eq!(sample.mapped.pages_4k, pages, "{pattern}");
        assert_checks(&plan, &sample);
    }
}

fn histogram() {
    let mut machine = machine(Backing::Anonymous, 8 * M, 1);
    machine.clear_histogram(0).unwrap();

    let command = Command { record: Record::Histogram, ..touches(Access::Write, 0, 8 * M) };
    let done = machine.run(&[command]).unwrap()[0];

    let histogram = machine.histogram(0).unwrap();
    assert_eq!(histogram.iter().map(|(_, count)| count).sum::<u64>(), 2048);
    // The longest touch lies in the last bucket that counts one.
    let (longest, _) = histogram.iter().last().unwrap();
    assert!(
        longest.abs_diff(done.outcome.max) <= done.outcome.max / 16,
        "{longest} and {}",
        done.outcome.max
    );
}

/// A machine with room for `samples`.
fn with_samples(samples: u64) -> Machine {
    let config = MachineConfig { samples_per_vcpu: samples, ..config(Backing::Anonymous, M, 1) };
    Machine::new(&Kvm::open().unwrap(), &config, &Interrupt::new().unwrap()).unwrap()
}

fn short_of_samples() {
    let mut machine = with_samples(1000);
    let record = |count| Command { count, record: Record::Samples, ..touches(Access::Write, 0, M) };
    machine.run(&[record(256)]).unwrap();
    machine.clear_samples(0, 1000).unwrap();

    machine.run(&[record(100)]).unwrap();

    assert_eq!(machine.samples(0, 1000).unwrap().len(), 100);
}

fn passes() {
    let mut machine = with_samples(3 * 256);
    machine.clear_samples(0, 3 * 256).unwrap();

    let command = Command { passes: 3, record: Record::Samples, ..touches(Access::Write, 0, M) };
    let done = machine.run(&[command]).unwrap()[0];

    assert_eq!(done.outcome.touches, 3 * 256);
    let samples = machine.samples(0, 3 * 256).unwrap();
    assert!(samples.iter().all(|sample| sample.ticks > 0));
    assert_eq!(samples.iter().map(|sample| sample.ticks).max(), Some(done.outcome.max));
    let in_order = samples.is_sorted_by(|a, b| a.end() <= b.start);
    assert!(in_order, "each begins after the one before has ended");
    assert!(samples[0].start >= done.outcome.start_tsc && samples[767].end() <= done.outcome.end_tsc);
}
