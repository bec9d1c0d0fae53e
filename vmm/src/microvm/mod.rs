//! A microVM that runs a kernel of the user's choice.
//!
//! ```text
//! MicroVm::new      VM, interrupt controllers, RAM
//!   attach          a virtio device: registers, interrupt, notifications; as often as there are devices
//!   start           kernel and tables into RAM, vCPUs, their threads
//! Running           handle: pause, resume, stop, from any thread
//!   wait            the event loop on the calling thread, until the guest has ended
//! ```
//!
//! Torn down in this order: vCPUs, devices, the VM, memory.

mod bus;
mod config;
mod end;
mod event_loop;
mod failure;
mod vcpus;
mod watchdog;

pub use config::{MicroVmConfig, MicroVmError};
pub use end::Ending;
pub use event_loop::{Handle, LoopError, Running, Subscriber};
pub use failure::GuestStopped;
pub use vcpus::Whereabouts;

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use vm_device::{
    bus::{MmioAddress, MmioRange, PioAddress, PioRange},
    device_manager::{IoManager, MmioManager, PioManager},
};

use crate::{
    boot::{BootSource, MmioDevice},
    interrupt::Interrupt,
    kvm::{Kvm, StopSignal, Vm, handle_poison},
    legacy::{
        Console, EXIT_PORT, ExitPort, KEYBOARD_GSI, KEYBOARD_PORTS, Keyboard, Output, Queue, SERIAL_GSI,
        SERIAL_PORTS, SerialConsole, Sink,
    },
    memory::Memory,
    virtio::{
        DeviceEvents, MmioTransport, SharedDevice,
        mmio::{MMIO_SIZE, QUEUE_NOTIFY},
    },
};
use bus::Bus;
use end::End;
use vcpus::Vcpus;

/// Where the registers of virtio devices begin, guest-physical: one page for each.
pub const MMIO_BASE: u64 = 0xd000_0000;
/// The first interrupt of a virtio device; those below are a PC's own.
const FIRST_GSI: u32 = 5;
/// The IOAPIC has 24 pins.
const MOST_DEVICES: usize = 24 - FIRST_GSI as usize;

/// A microVM that has not started.
#[derive(Debug)]
pub struct MicroVm {
    config: MicroVmConfig,
    vm: Vm,
    memory: Arc<Memory>,
    console: Arc<Console>,
    serial: Arc<Mutex<Serial>>,
    output: Arc<Output>,
    takes_input: bool,
    keyboard: Arc<Mutex<Keyboard>>,
    end: Arc<End>,
    buses: Buses,
    places: Vec<MmioDevice>,
    events: Vec<DeviceEvents>,
    signal: StopSignal,
    interrupt: Interrupt,
}

/// The serial port, whose output goes where the microVM's maker wants it.
type Serial = SerialConsole<Queue>;

/// The ports and the addresses of all devices. (Its type is not `Debug`.)
struct Buses(IoManager);

impl MicroVm {
    /// Makes the VM with its RAM, interrupt controllers, serial port, keyboard controller and exit port. Its console is this
    /// process's standard input and output. `interrupt` stops the making, and later the run.
    ///
    /// # Errors
    /// [`MicroVmError`]; nothing is left behind.
    pub fn new(kvm: &Kvm, config: MicroVmConfig, interrupt: &Interrupt) -> Result<Self, MicroVmError> {
        Ok(Self { takes_input: true, ..Self::make(kvm, config, interrupt, Sink::Stdout)? })
    }

    /// The same with a console that is written to `out`, and without input.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_output(
        kvm: &Kvm,
        config: MicroVmConfig,
        interrupt: &Interrupt,
        out: Box<dyn Write + Send>,
    ) -> Result<Self, MicroVmError> {
        Self::make(kvm, config, interrupt, Sink::Writer(out))
    }

    fn make(
        kvm: &Kvm,
        config: MicroVmConfig,
        interrupt: &Interrupt,
        sink: Sink,
    ) -> Result<Self, MicroVmError> {
        config.check_vcpus(kvm)?;
        let end = End::new().map_err(MicroVmError::Threads)?;
        let signal = StopSignal::install().map_err(MicroVmError::Threads)?;
        // Before the first fault: unhandled, the guest's touch of a poisoned page would end this process.
        handle_poison().map_err(MicroVmError::Threads)?;
        let vm = Vm::create(kvm)?;
        let memory =
            Memory::create(&config.memory, Some(&interrupt.flag()), |bytes| vm.create_guest_memfd(bytes))?;
        for ram in memory.rams() {
            vm.add_memory(Arc::clone(ram))?;
        }
        vm.create_irqchip()?;
        let console = Console::new().map_err(MicroVmError::Threads)?;
        vm.register_irqfd(console.interrupt(), SERIAL_GSI)?;
        let output = Output::new(&console, sink);
        let serial = Arc::new(Mutex::new(SerialConsole::new(&console, Queue(Arc::clone(&output)))));
        let reset = Arc::clone(&end);
        let keyboard =
            Keyboard::new(Box::new(move |_| reset.set(Ending::Reset))).map_err(MicroVmError::Threads)?;
        vm.register_irqfd(keyboard.interrupt(), KEYBOARD_GSI)?;
        let mut this = Self {
            config,
            vm,
            memory: Arc::new(memory),
            console,
            serial,
            output,
            takes_input: false,
            keyboard: Arc::new(Mutex::new(keyboard)),
            end,
            buses: Buses(IoManager::new()),
            places: Vec::new(),
            events: Vec::new(),
            signal,
            interrupt: interrupt.clone(),
        };
        this.add_legacy();
        Ok(this)
    }

    fn add_legacy(&mut self) {
        let end = Arc::clone(&self.end);
        let exit_port = ExitPort::new(Box::new(move |status| end.set(Ending::Exited(status))));
        let keyboard = Arc::clone(&self.keyboard);
        let serial = Arc::clone(&self.serial);
        let buses = &mut self.buses.0;
        let mut add = |(first, count), device| {
            // The bus is empty but for these, which do not overlap.
            let added =
                PioRange::new(PioAddress(first), count).and_then(|range| buses.register_pio(range, device));
            debug_assert!(added.is_ok(), "two devices share a port");
        };
        add(SERIAL_PORTS, serial);
        add(KEYBOARD_PORTS, keyboard);
        add((EXIT_PORT, 1), Arc::new(Mutex::new(exit_port)));
    }

    /// Gives the guest a virtio device, which it is told of on its command line. It has the next free place and interrupt.
    ///
    /// # Errors
    /// [`MicroVmError::TooManyDevices`], [`MicroVmError::Device`] or [`MicroVmError::Vm`].
    pub fn attach(&mut self, device: SharedDevice) -> Result<MmioDevice, MicroVmError> {
        let number = self.places.len();
        if number >= MOST_DEVICES {
            return Err(MicroVmError::TooManyDevices { most: MOST_DEVICES });
        }
        let gsi = FIRST_GSI + u32::try_from(number).unwrap_or(u32::MAX);
        let place = MmioDevice { address: MMIO_BASE + number as u64 * MMIO_SIZE, gsi };
        let transport = MmioTransport::new(device, Arc::clone(&self.memory)).map_err(MicroVmError::Device)?;
        self.vm.register_irqfd(transport.interrupt_event(), place.gsi)?;
        for (queue, event) in (0..).zip(transport.queue_events()) {
            self.vm.register_ioevent(event, place.address + QUEUE_NOTIFY, queue)?;
        }
        self.events.push(transport.events().map_err(MicroVmError::Device)?);
        let added = MmioRange::new(MmioAddress(place.address), MMIO_SIZE)
            .and_then(|range| self.buses.0.register_mmio(range, Arc::new(Mutex::new(transport))));
        added.map_err(|error| MicroVmError::Device(std::io::Error::other(error.to_string())))?;
        self.places.push(place);
        Ok(place)
    }

    /// The guest's memory.
    #[must_use]
    pub const fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Loads what `source` says and lets the vCPUs run.
    ///
    /// # Errors
    /// [`MicroVmError`]; nothing has run then, and nothing is left.
    pub fn start(self, source: &BootSource) -> Result<Running, MicroVmError> {
        let entry = source.load(self.memory.view(), self.config.vcpus, &self.places)?;
        let cpus = self.config.cpus();
        let mut vcpus = Vec::with_capacity(self.config.vcpus as usize);
        for id in 0..self.config.vcpus {
            let mut vcpu = self.vm.create_kernel_vcpu(id, &cpus)?;
            if id == 0 {
                vcpu.set_kernel_entry(entry).map_err(MicroVmError::EntryState)?;
                let shown = vcpu.still_shown(&cpus.masked).map_err(MicroVmError::EntryState)?;
                warn_of_shown(&shown);
            }
            vcpus.push(vcpu);
        }
        let devices = Arc::new(self.buses.0);
        let bus = |attention| Bus {
            devices: Arc::clone(&devices),
            output: Arc::clone(&self.output),
            attention,
            end: Arc::clone(&self.end),
        };
        let vcpus =
            Vcpus::start(vcpus, self.signal, &self.end, &self.memory, bus).map_err(MicroVmError::Threads)?;
        Ok(Running::new(event_loop::Parts {
            vcpus,
            devices: self.events,
            memory: self.memory,
            console: self.console,
            serial: self.serial,
            takes_input: self.takes_input,
            keyboard: self.keyboard,
            end: self.end,
            kernel: source.kernel.clone(),
            interrupt: self.interrupt,
            vm: self.vm,
        }))
    }
}

/// Tells the user which masked features the guest sees all the same.
fn warn_of_shown(shown: &[crate::kvm::CpuFeature]) {
    if shown.is_empty() {
        return;
    }
    let names: Vec<_> = shown.iter().map(|feature| feature.name()).collect();
    log::warn!(
        "this KVM shows {} to its guests whatever they are to see; add clearcpuid={} to --cmdline, which keeps Linux from \
         using it",
        names.join(", "),
        names.join(",")
    );
}

impl std::fmt::Debug for Buses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Buses")
    }
}
