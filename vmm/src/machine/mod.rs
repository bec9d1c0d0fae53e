//! A microVM that runs the fault-driver guest: RAM, page tables, vCPU threads, and the control side that waits for
//! them.

mod config;
mod control;
mod failure;
pub(crate) mod tsc;
mod vcpu_thread;

pub use config::{MachineConfig, MachineError, Stage};
pub use failure::{GuestFailure, RunError};
pub(crate) use vcpu_thread::pin_to;
pub use vcpu_thread::{Done, HostThreadFaults};

use std::{num::NonZeroU32, ops::Range, sync::Arc};

use guest_mem::{Backing, ByteSize, GuestRam, GuestRamConfig, ManagedConfig};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::{
    driver::{
        self, BUCKETS, Command, DOORBELL, GuestPage, Histogram, Layout, LayoutError, RAM_BASE, TimedTouch,
        VcpuArea,
    },
    interrupt::Interrupt,
    kvm::{EntryState, Kvm, Stats, StatsError, StopSignal, Vm, handle_poison},
};
use control::Control;
use vcpu_thread::VcpuThread;

/// A running microVM. Dropping it stops the vCPUs, then frees the memory.
#[derive(Debug)]
pub struct Machine {
    // In the order of teardown: vCPUs, the VM, memory.
    vcpus: Vec<VcpuThread>,
    control: Control,
    vm: Vm,
    slot: Arc<GuestRam>,
    ram: Arc<GuestRam>,
    layout: Layout,
    tsc_khz: NonZeroU32,
    /// How many commands have been given; each has its own target at the barrier.
    round: u64,
}

impl Machine {
    /// Makes the machine. No vCPU has run when this returns.
    ///
    /// # Errors
    /// [`MachineError`]; nothing is left behind then.
    pub fn new(kvm: &Kvm, config: &MachineConfig, interrupt: &Interrupt) -> Result<Self, MachineError> {
        Self::new_in_stages(kvm, config, interrupt, &mut |_| ())
    }

    /// The same, and calls `reached` after each stage, for those who want to know what takes how long.
    ///
    /// # Errors
    /// [`MachineError`]; nothing is left behind then.
    pub fn new_in_stages(
        kvm: &Kvm,
        config: &MachineConfig,
        interrupt: &Interrupt,
        reached: &mut dyn FnMut(Stage),
    ) -> Result<Self, MachineError> {
        let layout =
            Layout::new(config.size.bytes(), config.guest_page, config.vcpus, config.samples_per_vcpu)?;
        let stop_signal = StopSignal::install().map_err(MachineError::Threads)?;
        // Before the first fault: unhandled, the guest's touch of a poisoned page would end this process.
        handle_poison().map_err(MachineError::Threads)?;
        let vm = Vm::create(kvm)?;
        if config.guest_page == GuestPage::G1 && !vm.has_gigabyte_pages() {
            return Err(MachineError::NoGigabytePages);
        }
        reached(Stage::VmMade);
        let ram = Arc::new(make_ram(&vm, config, interrupt)?);
        let slot = Arc::new(make_control_slot(&layout, config, interrupt)?);
        reached(Stage::MemoryMade);
        vm.add_memory(Arc::clone(&slot))?;
        vm.add_memory(Arc::clone(&ram))?;
        reached(Stage::SlotsSet);

        let memory = slot.view();
        driver::write_tables(&layout, memory).map_err(MachineError::Load)?;
        memory.write_slice(driver::image(), GuestAddress(layout.code())).map_err(MachineError::Load)?;
        reached(Stage::GuestLoaded);

        let control = Control::new(interrupt).map_err(MachineError::Threads)?;
        let mut vcpus = Vec::with_capacity(config.vcpus as usize);
        let mut tsc_khz = NonZeroU32::MIN;
        for id in 0..config.vcpus {
            let mut vcpu = vm.create_vcpu(id)?;
            let area = layout.vcpu(id);
            let entry = EntryState { rip: layout.code(), rdi: area.mailbox, cr3: layout.tables() };
            let refused = |source| MachineError::EntryState { id, source };
            vcpu.set_entry_state(entry).map_err(refused)?;
            tsc_khz = vcpu.tsc_khz().map_err(refused)?;
            let cpu = config.pin.get(id as usize % config.pin.len().max(1)).copied();
            let memory = Arc::clone(&slot);
            let thread = VcpuThread::spawn(id, vcpu, area, memory, cpu, stop_signal, control.completion())?;
            vcpus.push(thread);
        }
        reached(Stage::VcpusReady);
        Ok(Self { vcpus, control, vm, slot, ram, layout, tsc_khz, round: 0 })
    }

    /// Gives vCPU `i` the command `commands[i]`, starts them all together, and waits until the last is done.
    ///
    /// Of the commands, the machine itself fills in where records, the barrier and the doorbell are. There is one
    /// for each vCPU; missing ones are [`Op::Hello`](driver::Op::Hello).
    ///
    /// # Errors
    /// [`RunError`]. The machine is of no more use then: drop it.
    pub fn run(&mut self, commands: &[Command]) -> Result<Vec<Done>, RunError> {
        self.round += 1;
        for (id, vcpu) in self.vcpus.iter().enumerate() {
            let area = self.area(id);
            vcpu.start(Command {
                records: area.records,
                barrier: self.layout.barrier(),
                barrier_target: self.round * self.vcpus.len() as u64,
                doorbell: DOORBELL,
                ..commands.get(id).copied().unwrap_or_default()
            })?;
        }
        let mut done: Vec<Option<Done>> = vec![None; self.vcpus.len()];
        while done.iter().any(Option::is_none) {
            self.control.wait()?;
            for (vcpu, slot) in self.vcpus.iter().zip(&mut done) {
                if let Some(result) = vcpu.take_result() {
                    *slot = Some(result?);
                }
            }
        }
        Ok(done.into_iter().flatten().collect())
    }

    /// Guest RAM, which starts at [`RAM_BASE`].
    #[must_use]
    pub const fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// Where RAM and the control slot are mapped in this process.
    #[must_use]
    pub fn host_ranges(&self) -> [Range<u64>; 2] {
        [&self.ram, &self.slot].map(|memory| {
            let start = memory.host_address().get();
            start..start + memory.size().bytes()
        })
    }

    /// Where everything lies in guest-physical memory.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How many vCPUs there are.
    #[must_use]
    pub fn vcpus(&self) -> usize {
        self.vcpus.len()
    }

    /// The frequency of the guest's time stamp counter, in kHz.
    #[must_use]
    pub const fn tsc_khz(&self) -> NonZeroU32 {
        self.tsc_khz
    }

    /// The VM's own statistics.
    ///
    /// # Errors
    /// [`StatsError`].
    pub fn stats(&self) -> Result<Stats, StatsError> {
        self.vm.stats()
    }

    /// Where vCPU `id` leaves its records, to be touched by the guest itself before anything is timed.
    #[must_use]
    pub fn area(&self, id: usize) -> VcpuArea {
        self.layout.vcpu(u32::try_from(id).unwrap_or(u32::MAX))
    }

    /// Marks the first `count` samples of vCPU `id` as not recorded.
    ///
    /// # Errors
    /// When there is no room for so many.
    pub fn clear_samples(&self, id: usize, count: usize) -> Result<(), GuestMemoryError> {
        let records = GuestAddress(self.area(id).records);
        self.slot.view().write_slice(&TimedTouch::none(count), records)
    }

    /// Those of the first `count` samples that vCPU `id` recorded since they were cleared.
    ///
    /// # Errors
    /// When there is no room for so many.
    pub fn samples(&self, id: usize, count: usize) -> Result<Vec<TimedTouch>, GuestMemoryError> {
        Ok(TimedTouch::read(&self.records(id, count * size_of::<TimedTouch>())?))
    }

    /// The first `len` bytes of what vCPU `id` recorded.
    fn records(&self, id: usize, len: usize) -> Result<Vec<u8>, GuestMemoryError> {
        let mut bytes = vec![0; len];
        self.slot.view().read_slice(&mut bytes, GuestAddress(self.area(id).records))?;
        Ok(bytes)
    }

    /// The histogram that vCPU `id` left.
    ///
    /// # Errors
    /// Never in practice: every vCPU has room for a histogram.
    pub fn histogram(&self, id: usize) -> Result<Histogram, GuestMemoryError> {
        let bytes = self.records(id, BUCKETS * 8)?;
        let counts = bytes.as_chunks().0.iter();
        Ok(Histogram::from_counts(counts.map(|count| u64::from_le_bytes(*count)).collect()))
    }

    /// Empties the place where vCPU `id` counts its histogram.
    ///
    /// # Errors
    /// Never in practice: every vCPU has room for a histogram.
    pub fn clear_histogram(&self, id: usize) -> Result<(), GuestMemoryError> {
        self.slot.view().write_slice(&[0; BUCKETS * 8], GuestAddress(self.area(id).records))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // All are asked before the first is waited for: one may be waiting at the barrier for another.
        for vcpu in &self.vcpus {
            vcpu.stop();
        }
    }
}

fn make_ram(vm: &Vm, config: &MachineConfig, interrupt: &Interrupt) -> Result<GuestRam, MachineError> {
    let guest_memfd = match config.backing {
        Backing::GuestMemfd => Some(vm.create_guest_memfd(config.size.bytes())?),
        _ => None,
    };
    let ram = GuestRamConfig {
        size: config.size,
        backing: config.backing.clone(),
        guest_base: GuestAddress(RAM_BASE),
        guest: config.name.clone(),
        region: "ram".to_owned(),
        prefault: config.prefault.map(|threads| guest_mem::Prefault { threads }),
        numa_node: config.numa_node,
        guest_memfd,
        managed: config.managed.clone(),
        interrupt: Some(interrupt.flag()),
    };
    match &config.shares {
        Some(other) => other.share(&ram),
        None => GuestRam::create(ram),
    }
    .map_err(MachineError::Ram)
}

/// Small pages: most of it is never touched.
fn make_control_slot(
    layout: &Layout,
    config: &MachineConfig,
    interrupt: &Interrupt,
) -> Result<GuestRam, MachineError> {
    let room = LayoutError::ControlTooLarge { bytes: layout.control_bytes(), room: 0 };
    GuestRam::create(GuestRamConfig {
        size: ByteSize::new(layout.control_bytes()).ok_or(room)?,
        backing: Backing::Anonymous,
        guest_base: GuestAddress(layout.control_base()),
        guest: config.name.clone(),
        region: "control".to_owned(),
        prefault: None,
        numa_node: None,
        guest_memfd: None,
        managed: ManagedConfig::default(),
        interrupt: Some(interrupt.flag()),
    })
    .map_err(MachineError::Control)
}
