//! RAM whose faults underlay resolves: every number of vCPUs and handlers, sleeping and spinning.

use std::{fmt, io, num::NonZeroUsize, sync::Arc, thread, time::Duration};

use guest_mem::{
    Backing, FaultAround, FaultReason, Filler, HugePageSize, ManagedConfig, ServiceConfig, Stock, Waiting,
};
use underlay_tests::{Need, Suite, huge_pages};
use vm_memory::{Bytes, GuestAddress};
use vmm::{
    driver::{Access, Command, Op, Permutation, RAM_BASE, pattern},
    interrupt::Interrupt,
    kvm::{Exit, Kvm},
    machine::{Machine, MachineConfig, RunError},
    measure::{Pattern, Plan, Sample},
};

use super::{
    backings::assert_checks,
    discard::{meanwhile, range},
    support::{M, PAGE, config, plan, run, touches, words},
};

const BYTES: u64 = 16 * M;

pub(crate) fn add_to(suite: &mut Suite) {
    for setup in setups() {
        let needs = setup.needs();
        let mut test = |name: &str, body: fn(&Setup)| {
            let setup = setup.clone();
            suite.test(format!("{setup}::{name}"), &needs, move || body(&setup));
        };
        test("what_is_filled_together_is_verified_crosswise", fill_together);
        test("every_order_and_access_touches_all", touch_all);
        test("what_is_discarded_under_a_running_guest_is_new", discard_meanwhile);
        test("an_interrupt_ends_a_guest_that_faults_for_ever", stop);
    }
    for setup in [Setup::new(Backing::Managed4kb), Setup::new(Backing::Managed2mb)] {
        let needs = setup.needs();
        let mut test = |name: &str, body: fn(&Setup)| {
            let setup = setup.clone();
            suite.test(format!("{}::{name}", setup.backing), &needs, move || body(&setup));
        };
        test("host_and_guest_see_the_same_words", same_words);
        test("every_fault_that_was_timed_has_its_stages", stages);
        test("without_fault_around_each_page_faults_once", without_around);
        test("without_a_stock_each_fault_zeroes_its_own", without_stock);
        test("with_a_small_stock_nothing_is_lost", small_stock);
        test("a_page_that_is_never_to_be_had_stops_the_vcpu_and_says_where", never_to_be_had);
    }
}

/// A machine, as these tests vary it.
#[derive(Clone)]
struct Setup {
    backing: Backing,
    vcpus: u32,
    managed: ManagedConfig,
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = &self.managed.service;
        let waiting = if service.waiting == Waiting::Sleep { "sleeping" } else { "spinning" };
        write!(f, "{}_vcpus_{}_handlers_{}_{waiting}", self.backing, self.vcpus, service.handlers)
    }
}

fn setups() -> Vec<Setup> {
    let mut setups = Vec::new();
    for backing in [Backing::Managed4kb, Backing::Managed2mb] {
        for vcpus in [1, 2, 4] {
            for handlers in [1, 2] {
                for waiting in [Waiting::Sleep, Waiting::Spin(Duration::from_millis(1))] {
                    let mut setup = Setup { vcpus, ..Setup::new(backing.clone()) };
                    let handlers = NonZeroUsize::new(handlers).unwrap();
                    setup.managed.service = ServiceConfig { handlers, waiting, ..ServiceConfig::default() };
                    setups.push(setup);
                }
            }
        }
    }
    setups
}

impl Setup {
    fn new(backing: Backing) -> Self {
        Self { backing, vcpus: 1, managed: ManagedConfig::default() }
    }

    fn needs(&self) -> Vec<Need> {
        let pages = Need::HugePages(HugePageSize::Mb2, BYTES / (2 * M));
        let pages = self.backing.is_hugetlb().then_some(pages);
        [Need::Kvm, Need::ManagedFaults].into_iter().chain(pages).collect()
    }

    #[track_caller]
    fn machine(&self, interrupt: &Interrupt) -> Machine {
        let managed = self.managed.clone();
        let config = MachineConfig { managed, ..config(self.backing.clone(), BYTES, self.vcpus) };
        Machine::new(&Kvm::open().unwrap(), &config, interrupt).unwrap()
    }

    fn plan(&self) -> Plan {
        Plan { vcpus: self.vcpus, managed: self.managed.clone(), ..plan(BYTES) }
    }

    /// Takes a sample, all checks of which must hold.
    #[track_caller]
    fn sample(&self, plan: &Plan) -> Sample {
        let (kvm, interrupt) = (Kvm::open().unwrap(), Interrupt::new().unwrap());
        let sample = Sample::take(&kvm, plan, &self.backing, 1, &interrupt, None).unwrap();
        assert_checks(plan, &sample);
        sample
    }

    /// The size of the pages that it maps.
    fn page(&self) -> u64 {
        self.backing.page_size()
    }
}

fn fill_together(setup: &Setup) {
    let _pages = huge_pages(&setup.backing, BYTES);
    let mut machine = setup.machine(&Interrupt::new().unwrap());
    let part = BYTES / u64::from(setup.vcpus);
    let each = |op, shift: u32| -> Vec<_> {
        let owner = |id: u32| u64::from((id + shift) % setup.vcpus);
        (0..setup.vcpus).map(|id| words(op, owner(id) * part, part, owner(id))).collect()
    };

    machine.run(&each(Op::Fill, 0)).unwrap();

    for done in machine.run(&each(Op::Verify, 1)).unwrap() {
        assert_eq!((done.outcome.touches, done.outcome.mismatches), (part / 8, 0));
    }
}

fn touch_all(setup: &Setup) {
    let _pages = huge_pages(&setup.backing, BYTES);
    for access in [Access::Write, Access::Read, Access::ReadWrite] {
        for pattern in [Pattern::Sequential, Pattern::Random] {
            let plan = Plan { access, pattern, ..setup.plan() };

            let sample = setup.sample(&plan);

            assert_eq!((sample.first.touches, sample.second.touches), (BYTES / PAGE, BYTES / PAGE));
            let mapped = sample.managed.unwrap().mapped;
            let bytes = mapped.base * PAGE + mapped.huge * 2 * M;
            assert_eq!(bytes, BYTES, "{pattern}: each page is mapped once");
        }
    }
    let overlap = Plan { overlap: true, ..setup.plan() };
    let sample = setup.sample(&overlap);
    assert_eq!(sample.first.touches, BYTES / PAGE * u64::from(setup.vcpus));
}

/// Each vCPU touches all of its part in an order of its own, over and over, while the host takes it away.
fn discard_meanwhile(setup: &Setup) {
    let _pages = huge_pages(&setup.backing, BYTES);
    let mut machine = setup.machine(&Interrupt::new().unwrap());
    let ram = machine.ram().clone();
    let half = BYTES / 2;
    run(&mut machine, words(Op::Fill, 0, half, 3));
    let order = |id: u32| Permutation::new(half / PAGE, id.into());
    // A second or so: a pass over small pages may have to fault each of them in again.
    let passes = if setup.backing.is_hugetlb() { 100 } else { 6 };
    let writes =
        |id| Command { passes, permutation: Some(order(id)), ..touches(Access::ReadWrite, half, half) };

    let (mut machine, rounds) = meanwhile(machine, (0..setup.vcpus).map(writes).collect(), |round| {
        let at = half + (round * 0x23_5000) % (half / 2);
        ram.discard(range(at, PAGE)).unwrap();
        ram.discard(range(at, 3 * M)).unwrap();
        ram.discard(range(half, half)).unwrap();
    });
    ram.discard(range(half, half)).unwrap();

    assert!(rounds > 0, "the host discarded while the guest ran");
    let mut zeros = vec![0xff; usize::try_from(half).unwrap()];
    ram.view().read_slice(&mut zeros, GuestAddress(RAM_BASE + half)).unwrap();
    assert!(zeros.iter().all(|byte| *byte == 0), "what was discarded is as new");
    let kept = run(&mut machine, words(Op::Verify, 0, half, 3)).outcome;
    assert_eq!(kept.mismatches, 0, "what was not is left alone");
    run(&mut machine, words(Op::Fill, half, half, 4));
    assert_eq!(run(&mut machine, words(Op::Verify, half, half, 4)).outcome.mismatches, 0);
    let faults = ram.mm().unwrap().stats();
    assert_eq!((faults.of(FaultReason::Failed), ram.replaced_handlers()), (0, 0), "{faults:?}");
}

/// The guest faults on what the host keeps taking away, and would never end.
fn stop(setup: &Setup) {
    let _pages = huge_pages(&setup.backing, BYTES);
    let interrupt = Interrupt::new().unwrap();
    let mut machine = setup.machine(&interrupt);
    let ram = machine.ram().clone();
    let endless = Command { passes: u64::MAX, ..touches(Access::Write, 0, BYTES) };
    let raiser = thread::spawn(move || {
        for _ in 0..50 {
            ram.discard(ram.range()).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
        interrupt.raise();
    });

    let error = machine.run(&vec![endless; setup.vcpus as usize]).unwrap_err();
    drop(machine);

    assert!(matches!(error, RunError::Interrupted), "{error}");
    raiser.join().unwrap();
}

fn same_words(setup: &Setup) {
    let _pages = huge_pages(&setup.backing, BYTES);
    let mut machine = setup.machine(&Interrupt::new().unwrap());
    let ram = machine.ram().clone();
    // The host comes first to one page, the guest to all others.
    let (first, wrong) = (RAM_BASE + 3 * M, RAM_BASE + BYTES - 8);
    ram.view().write_obj(pattern(first, 7), GuestAddress(first)).unwrap();
    assert_eq!(run(&mut machine, words(Op::Verify, 3 * M, 8, 7)).outcome.mismatches, 0);

    run(&mut machine, words(Op::Fill, 0, BYTES, 7));
    ram.view().write_obj(!pattern(wrong, 7), GuestAddress(wrong)).unwrap();

    for address in [RAM_BASE, first, RAM_BASE + BYTES / 2] {
        assert_eq!(ram.view().read_obj::<u64>(GuestAddress(address)).unwrap(), pattern(address, 7));
    }
    let verified = run(&mut machine, words(Op::Verify, 0, BYTES, 7)).outcome;
    assert_eq!((verified.mismatches, verified.first_mismatch), (1, wrong));
    assert_eq!(ram.report().unwrap().resident_bytes, Some(BYTES), "every page is there, and none twice");
}

fn stages(setup: &Setup) {
    let _pages = huge_pages(&setup.backing, BYTES);

    let sample = setup.sample(&setup.plan());

    let managed = sample.managed.unwrap();
    let stages = managed.stages.as_ref().unwrap();
    // All faults are of timed touches, and a stage is part of its touch.
    assert_eq!(Some(stages.wake.len()), managed.handled);
    assert!(!stages.wake.is_empty());
    for stage in [&stages.wake, &stages.resolve, &stages.resume] {
        assert!(stage.max() <= sample.first.ticks.max() + stages.error + sample.first.ticks.max() / 100);
    }
}

fn without_around(setup: &Setup) {
    let _pages = huge_pages(&setup.backing, BYTES);
    let mut plan = setup.plan();
    plan.managed.around = FaultAround::OFF;

    let managed = setup.sample(&plan).managed.unwrap();

    let pages = BYTES / setup.page();
    assert_eq!(managed.count(&[FaultReason::Base, FaultReason::Huge]), pages);
    assert_eq!(managed.faults.of(FaultReason::Around), 0);
}

fn without_stock(setup: &Setup) {
    let _pages = huge_pages(&setup.backing, BYTES);
    let mut plan = setup.plan();
    plan.managed.stock = Stock::None;

    let managed = setup.sample(&plan).managed.unwrap();

    assert_eq!((managed.stock_hits, managed.zeroed_at_take), (0, BYTES / PAGE));
}

fn small_stock(setup: &Setup) {
    let _pages = huge_pages(&setup.backing, BYTES);
    let mut plan = setup.plan();
    plan.managed.stock = Stock::Blocks(2);

    let managed = setup.sample(&plan).managed.unwrap();

    assert_eq!(managed.stock_hits + managed.zeroed_at_take, BYTES / PAGE);
    assert!(managed.stock_hits >= 2 * 512, "what was zeroed before the guest ran was taken");
}

/// Has what was there for the first half of RAM, and nothing for the second.
struct HalfLost;

impl Filler for HalfLost {
    fn name(&self) -> &'static str {
        "half lost"
    }

    fn fill(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if offset >= BYTES / 2 {
            return Err(io::ErrorKind::NotFound.into());
        }
        into.fill(0);
        Ok(())
    }
}

/// A SIGBUS that nobody handles would end this process, and one that is only ignored would have the vCPU try for ever.
fn never_to_be_had(setup: &Setup) {
    let _pages = huge_pages(&setup.backing, BYTES);
    let managed = ManagedConfig {
        filler: Some(Arc::new(HalfLost)),
        patience: Duration::from_millis(200),
        ..ManagedConfig::default()
    };
    let mut machine = Setup { managed, ..setup.clone() }.machine(&Interrupt::new().unwrap());
    let [ram, _] = machine.host_ranges();
    run(&mut machine, touches(Access::Write, 0, BYTES / 2));

    let error = machine.run(&[touches(Access::Write, BYTES / 2, PAGE)]).unwrap_err();

    let RunError::Guest(failure) = &error else { panic!("{error}") };
    assert_eq!(failure.exit, Exit::Poisoned { address: ram.start + BYTES / 2 }, "{error}");
    assert_eq!(machine.ram().mm().unwrap().stats().of(FaultReason::Poisoned), 1);
    drop(machine);
    run(&mut setup.machine(&Interrupt::new().unwrap()), touches(Access::Write, 0, BYTES));
}
