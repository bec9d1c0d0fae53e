//! Ends a run that hangs, and tells all that is known of it.

use std::{
    fs, process,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use guest_mem::{GuestRam, HostSettings};
use vmm::driver::Command;

/// How long nothing may happen. A round takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The host's settings, for as long as a run lasts.
pub(crate) type Settings = Arc<Mutex<Option<HostSettings>>>;

/// What the watchdog looks at.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Anything that grows as long as all is well.
    pub(crate) rounds: AtomicU64,
    /// What each vCPU was told last.
    pub(crate) commands: Mutex<Vec<Command>>,
}

/// Watches until it is dropped.
pub(crate) struct Watchdog {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Puts the host's `settings` back before it ends the process.
    pub(crate) fn watch(progress: Arc<Progress>, ram: Arc<GuestRam>, settings: Settings) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut seen = u64::MAX;
            while stopped.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let now = progress.rounds.load(Relaxed);
                if now == seen {
                    dump(&progress, &ram);
                    drop(settings.lock().unwrap().take());
                    process::exit(101);
                }
                seen = now;
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// All that is known. Takes no lock of the memory manager's, as whoever hangs may hold it.
fn dump(progress: &Progress, ram: &GuestRam) {
    eprintln!("nothing has happened for {PATIENCE:?} after {} rounds", progress.rounds.load(Relaxed));
    for (vcpu, command) in progress.commands.lock().unwrap().iter().enumerate() {
        eprintln!("vCPU {vcpu}: {command:?}");
    }
    let mm = ram.mm().unwrap();
    eprintln!("faults: {:?}", mm.stats().faults.iter().filter(|fault| fault.count > 0).collect::<Vec<_>>());
    eprintln!("page table: {:?}; handlers replaced: {}", mm.page_table().mapped(), ram.replaced_handlers());
    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default().trim().to_owned();
        let state = read("status").lines().find(|line| line.starts_with("State")).map(str::to_owned);
        eprintln!(
            "thread {}: {:?} in {}, system call {}",
            read("comm"),
            state,
            read("wchan"),
            read("syscall")
        );
    }
    for vma in mm.vmas().snapshot().iter() {
        eprintln!("VMA {}: {:?}", vma.range, vma.flags);
    }
    eprintln!("pool: {:?}", mm.pool().report());
}
