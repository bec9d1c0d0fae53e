//! Linux guests as these tests want them: started in this process, and watched by what they say.

use std::{
    io::{self, Write},
    sync::{Arc, Condvar, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use guest_mem::{Backing, ByteSize};
use underlay_tests::{Linux, Turn};
use vmm::{
    boot::BootSource,
    interrupt::Interrupt,
    kvm::Kvm,
    memory::MemoryConfig,
    microvm::{Ending, Handle, MicroVm, MicroVmConfig},
};

pub(crate) const M: u64 = 1 << 20;

/// A guest that says nothing for so long has failed: longer than a boot on a busy host that emulates it.
const PATIENCE: Duration = Duration::from_mins(15);

/// A Linux guest that runs in this process.
pub(crate) struct Guest {
    pub(crate) handle: Handle,
    console: Screen,
    thread: Option<JoinHandle<Ending>>,
    _turn: Turn,
}

/// What the guest has written.
#[derive(Clone, Default)]
pub(crate) struct Screen(Arc<(Mutex<String>, Condvar)>);

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.0.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
        self.0.1.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Guest {
    /// Boots Linux on `bytes` of `backing` with `vcpus` vCPUs, and has its init run `tests`.
    #[track_caller]
    pub(crate) fn boot(backing: Backing, bytes: u64, vcpus: u32, tests: &str) -> Self {
        let memory = MemoryConfig::new(ByteSize::new(bytes).unwrap(), backing);
        Self::boot_with(memory, vcpus, tests, |_| ())
    }

    /// The same on `memory`, with what `attach` gives the microVM before it starts.
    #[track_caller]
    pub(crate) fn boot_with(
        memory: MemoryConfig,
        vcpus: u32,
        tests: &str,
        attach: impl FnOnce(&mut MicroVm),
    ) -> Self {
        let linux = Linux::built().unwrap();
        let source = BootSource {
            initrd: Some(linux.initrd.clone()),
            command_line: linux.line_for(tests),
            ..BootSource::new(&linux.kernel)
        };
        Self::boot_from(&source, memory, vcpus, attach)
    }

    /// The same for whatever is in `source`.
    #[track_caller]
    pub(crate) fn boot_from(
        source: &BootSource,
        memory: MemoryConfig,
        vcpus: u32,
        attach: impl FnOnce(&mut MicroVm),
    ) -> Self {
        let turn = Turn::wait(vcpus as usize);
        let config = MicroVmConfig { vcpus, ..MicroVmConfig::new(memory) };
        let (kvm, interrupt) = (Kvm::open().unwrap(), Interrupt::new().unwrap());
        let console = Screen::default();
        let mut vm = MicroVm::with_output(&kvm, config, &interrupt, Box::new(console.clone())).unwrap();
        attach(&mut vm);
        let running = vm.start(source).unwrap();
        let handle = running.handle();
        let thread = thread::spawn(move || running.wait(Vec::new(), None, &mut |_| ()).unwrap());
        Self { handle, console, thread: Some(thread), _turn: turn }
    }

    /// What it has written up to now.
    pub(crate) fn text(&self) -> String {
        self.console.0.0.lock().unwrap().clone()
    }

    /// Waits until it has written `words` so many times.
    #[track_caller]
    pub(crate) fn wait_for(&self, words: &str, times: usize) {
        let (text, changed) = &*self.console.0;
        let mut text = text.lock().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while text.matches(words).count() < times {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!ended && Instant::now() < deadline, "no {times} times {words:?} in:\n{text}");
            text = changed.wait_timeout(text, Duration::from_secs(1)).unwrap().0;
        }
    }

    /// Waits for its end; its status and all that it has written.
    #[track_caller]
    pub(crate) fn finish(mut self) -> (Ending, String) {
        let ending = self.thread.take().unwrap().join().unwrap();
        (ending, self.text())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            // A test that fails has its own message.
            let _panicked = thread.join();
        }
    }
}
