//! Managed RAM whose system calls fail, one by one and by chance.
//!
//! Each test runs in a process of its own: what that process has open, mapped and running is the test's. A watchdog ends
//! it, with all that is known, when it hangs.

mod creation;
mod lost;
mod running;
mod toucher;

use std::{
    env, fs,
    process::{self, Command},
    sync::{Mutex, Weak},
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    CreateRamError, HugePagePool, HugePageSize, ManagedConfig, Mm, host::Injector, name::MappingName,
};

/// Set in the process that is a test's own, to the number of huge pages that it may have.
const ALONE: &str = "UNDERLAY_TEST_ALONE";
/// No test takes half of it.
const PATIENCE: Duration = Duration::from_mins(1);
/// Bytes of RAM: a block for each of two threads.
const SIZE: u64 = 4 * M;

/// What the watchdog tells of.
static WATCHED: Mutex<Option<Weak<Mm>>> = Mutex::new(None);

/// Runs `body` in a process of its own; `name` is the test's, in this module.
fn alone(name: &str, body: impl FnOnce()) {
    if env::var_os(ALONE).is_some() {
        thread::spawn(|| {
            thread::sleep(PATIENCE);
            let mm = WATCHED.lock().unwrap().as_ref().and_then(Weak::upgrade);
            if let Some(mm) = mm {
                let stats = mm.stats().faults.into_iter().filter(|fault| fault.count > 0);
                eprintln!("{mm:?}\n{:?}\n{:?}", mm.pool().report(), stats.collect::<Vec<_>>());
            }
            eprintln!("a test hangs");
            process::exit(101);
        });
        return body();
    }
    // Put back here, however that process ends.
    let (_settings, huge_pages) = huge_pages();
    let mut test = Command::new(env::current_exe().unwrap());
    test.args(["--exact", &format!("ram::tests::injected::{name}"), "--nocapture", "--test-threads=1"]);

    let ended = test.env(ALONE, huge_pages.to_string()).output().unwrap();

    let [out, errors] = [&ended.stdout, &ended.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(ended.status.success(), "{out}\n{errors}");
    assert!(out.contains("1 passed"), "{name} is the name of no test");
}

/// RAM of [`SIZE`] at address 0, all calls for which `injector` may have fail.
fn make(backing: Backing, managed: ManagedConfig, injector: &Injector) -> Result<GuestRam, CreateRamError> {
    let size = ByteSize::new(SIZE).unwrap();
    let config = GuestRamConfig { managed, ..GuestRamConfig::new(size, backing) };
    let name = MappingName::new("injected", "ram");
    let range = AddressRange::new(0, SIZE).unwrap();
    let ram = GuestRam::create_managed(&config, range, &name, injector)?;
    *WATCHED.lock().unwrap() = ram.mm().map(Arc::downgrade);
    Ok(ram)
}

/// What this process holds of the system.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: Vec<String>,
    threads: usize,
    mappings: Vec<String>,
    huge_pages: Option<(u64, u64)>,
}

impl Holdings {
    fn now() -> Self {
        let entries = |path| fs::read_dir(path).unwrap().flatten();
        let target = |entry: fs::DirEntry| fs::read_link(entry.path()).ok();
        let open = entries("/proc/self/fd").filter_map(target).map(|path| path.display().to_string());
        // Numbers of inodes and processes may differ; what is open is of few kinds.
        let mut descriptors: Vec<_> =
            open.map(|path| path.trim_matches(|c: char| "0123456789[]:".contains(c)).to_owned()).collect();
        descriptors.sort();
        Self {
            descriptors,
            threads: entries("/proc/self/task").count(),
            mappings: maps_with("injected"),
            huge_pages: has_huge_pages()
                .then(|| HugePagePool::read(HugePageSize::Mb2).unwrap())
                .map(|pool| (pool.free, pool.reserved)),
        }
    }

    /// Asserts that this process has what it had; a thread that was joined may take an instant to go.
    #[track_caller]
    fn assert_left(&self, after: &str) {
        let started = Instant::now();
        while Self::now() != *self && started.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(Self::now(), *self, "after {after}");
    }
}

/// As many huge pages as RAM of [`SIZE`] has, if they are to be had, until the settings are dropped.
#[cfg(feature = "testing")]
fn huge_pages() -> (Option<crate::HostSettings>, u64) {
    match crate::HostSettings::lock().unwrap().with_huge_pages(HugePageSize::Mb2, SIZE >> 21) {
        Ok(settings) => (Some(settings), SIZE >> 21),
        Err(refused) => {
            println!("only base pages: {refused}");
            (None, 0)
        }
    }
}

#[cfg(not(feature = "testing"))]
fn huge_pages() -> ((), u64) {
    ((), 0)
}

/// Whether the host's huge pages are this test's alone: elsewhere others may take and return some at any time.
fn has_huge_pages() -> bool {
    env::var(ALONE).is_ok_and(|pages| pages != "0")
}

/// Runs `body` with each managed backing that there is memory for.
fn for_each_backing(body: impl Fn(&Backing)) {
    body(&Backing::Managed4kb);
    if has_huge_pages() {
        body(&Backing::Managed2mb);
    }
}
