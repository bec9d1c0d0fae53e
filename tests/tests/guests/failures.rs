//! Guests that get into trouble, and machines that are stopped.

use std::{sync::Arc, thread, time::Duration};

use guest_mem::{Backing, ByteSize, GuestRam, GuestRamConfig};
use underlay_tests::{Need, Suite};
use vmm::{
    driver::{Access, Command, GuestPage, Op, Permutation},
    interrupt::Interrupt,
    kvm::{Exit, Kvm, Vm, VmError},
    machine::{Machine, MachineConfig, MachineError, RunError},
};

use super::support::{M, PAGE, config, touches};

pub(crate) fn add_to(suite: &mut Suite) {
    suite.test("failures::a_triple_fault_says_where", &[Need::Kvm], triple_fault);
    suite.test("failures::the_guest_walks_the_permutation_that_the_host_knows", &[Need::Kvm], permutation);
    suite.test("failures::an_interrupt_ends_a_guest_that_never_would", &[Need::Kvm], interrupt);
    suite.test("failures::a_machine_whose_other_vcpus_wait_can_be_dropped", &[Need::Kvm], drop_waiting);
    suite.test("failures::too_many_vcpus_are_refused", &[Need::Kvm], too_many_vcpus);
    suite.test("failures::a_vcpu_keeps_its_memory_when_its_vm_is_dropped", &[Need::Kvm], orphan);
    suite.test("failures::nothing_is_left_of_a_dropped_machine", &[Need::Kvm], nothing_left);
}

/// A machine whose guest maps RAM in pages of 4 KiB, so that it ends where the RAM does.
fn exact(bytes: u64, vcpus: u32) -> Machine {
    let config = MachineConfig { guest_page: GuestPage::K4, ..config(Backing::Anonymous, bytes, vcpus) };
    Machine::new(&Kvm::open().unwrap(), &config, &Interrupt::new().unwrap()).unwrap()
}

fn triple_fault() {
    let mut machine = exact(M, 1);

    let error = machine.run(&[touches(Access::Write, 0, M + PAGE)]).unwrap_err();

    let RunError::Guest(failure) = &error else { panic!("{error}") };
    assert_eq!(failure.exit, Exit::Shutdown);
    assert_eq!(failure.registers.general.r12, 256, "all touches but the last were made");
    let text = error.to_string();
    assert!(text.contains("triple fault"), "{text}");
    assert!(text.contains("touching word 256 of 257 from 0x100000000 on, at 0x100100000"), "{text}");
    assert!(text.contains("rip 0x0000000040200"), "{text}");
}

/// The last page of the permuted range is not there: the guest stops just when it comes to it.
fn permutation() {
    for seed in 0..16 {
        let count = 256 + seed * 3;
        let order = Permutation::new(count, seed);
        let mut machine = exact((count - 1) * PAGE, 1);
        let command = Command { count, permutation: Some(order), ..touches(Access::Read, 0, M) };

        let error = machine.run(&[command]).unwrap_err();

        let RunError::Guest(failure) = error else { panic!("{error}") };
        assert_eq!(order.apply(failure.registers.general.r12), count - 1, "seed {seed}");
    }
}

fn endless() -> Command {
    Command { passes: u64::MAX, ..touches(Access::Read, 0, M) }
}

fn interrupt() {
    let interrupt = Interrupt::new().unwrap();
    let config = config(Backing::Anonymous, M, 2);
    let mut machine = Machine::new(&Kvm::open().unwrap(), &config, &interrupt).unwrap();
    let raiser = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        interrupt.raise();
    });

    let error = machine.run(&[endless(), endless()]).unwrap_err();
    drop(machine);

    assert!(matches!(error, RunError::Interrupted), "{error}");
    raiser.join().unwrap();
}

/// The first vCPU dies while the second still runs, and a third has nothing to do.
fn drop_waiting() {
    let mut machine = exact(M, 3);

    let error = machine.run(&[touches(Access::Write, M, PAGE), endless(), Command::default()]).unwrap_err();
    drop(machine);

    assert!(matches!(error, RunError::Guest(_)), "{error}");
}

fn too_many_vcpus() {
    let kvm = Kvm::open().unwrap();
    let limit = u32::try_from(kvm.max_vcpus()).unwrap();

    let error = Vm::create(&kvm).unwrap().create_vcpu(limit).unwrap_err();

    assert!(matches!(error, VmError::TooManyVcpus { .. }), "{error}");
    assert!(error.to_string().contains(&limit.to_string()));
}

fn nothing_left() {
    let name = "nothing-left";
    let config = MachineConfig { name: name.to_owned(), ..config(Backing::Shmem, M, 2) };
    let kvm = Kvm::open().unwrap();
    let mut machine = Machine::new(&kvm, &config, &Interrupt::new().unwrap()).unwrap();
    machine.run(&[Command { op: Op::Hello, ..Command::default() }]).unwrap();
    assert!(mapped(name) > 0);

    drop(machine);
    let wrong = MachineConfig { backing: Backing::File("/nonexistent".into()), ..config };
    let error = Machine::new(&kvm, &wrong, &Interrupt::new().unwrap()).unwrap_err();

    assert!(matches!(error, MachineError::Ram(_)), "{error}");
    assert_eq!(mapped(name), 0);
}

/// To the kernel the VM lives as long as its vCPU: what the guest writes must not hit what this process maps later.
fn orphan() {
    let vm = Vm::create(&Kvm::open().unwrap()).unwrap();
    let config = GuestRamConfig {
        guest: "orphan".to_owned(),
        ..GuestRamConfig::new(ByteSize::new(M).unwrap(), Backing::Shmem)
    };
    vm.add_memory(Arc::new(GuestRam::create(config).unwrap())).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();

    drop(vm);

    assert_eq!(mapped("underlay:orphan:"), 1);
    drop(vcpu);
    assert_eq!(mapped("underlay:orphan:"), 0);
}

/// How many mappings of this process are called so.
fn mapped(name: &str) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains(name)).count()
}
