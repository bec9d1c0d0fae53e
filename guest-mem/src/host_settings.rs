//! Settings of the host that a test needs changed: changed under a lock, and put back also when the test fails.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::{HugePagePool, HugePageSize};

/// How often the kernel is asked for huge pages.
const ATTEMPTS: u32 = 20;
/// How long whoever is in the way gets between two attempts; all of them together take 2 s or a little more.
const PAUSE: Duration = Duration::from_millis(100);

/// Settings of the host that are this test's alone; they are put back when this is dropped.
#[derive(Debug)]
pub struct HostSettings {
    changed: Vec<(PathBuf, String)>,
    /// Dropped last: the settings are back before anybody else may change them.
    _lock: File,
}

/// The host does not let this process change a setting, or not so far: a reason to skip a test.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct SettingRefused {
    what: String,
    why: String,
}

impl SettingRefused {
    fn new(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self { what: what.to_string(), why: why.to_string() }
    }
}

impl HostSettings {
    /// Waits until no other test, of any program, changes the host's settings.
    ///
    /// # Errors
    /// What the lock file's making or locking returned.
    pub fn lock() -> io::Result<Self> {
        let path = std::env::temp_dir().join("underlay-host-settings.lock");
        // Another user's file cannot be opened for writing, nor with O_CREAT in a sticky directory.
        let lock = File::open(&path).or_else(|_| File::create_new(&path).or_else(|_| File::open(&path)))?;
        lock.lock()?;
        Ok(Self { changed: Vec::new(), _lock: lock })
    }

    /// Writes `value` to the kernel's file at `path`.
    ///
    /// # Errors
    /// [`SettingRefused`] if that is not allowed; what was set before is put back.
    pub fn set(mut self, path: impl AsRef<Path>, value: &str) -> Result<Self, SettingRefused> {
        let path = path.as_ref();
        let refused = |error| SettingRefused::new(path.display(), error);
        let old = fs::read_to_string(path).map_err(refused)?;
        // A file of choices shows them all, and takes the chosen one.
        let chosen = old.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        let old = chosen.map_or(old.trim(), |(chosen, _)| chosen).to_owned();
        fs::write(path, value).map_err(refused)?;
        self.changed.push((path.to_owned(), old));
        Ok(self)
    }

    /// Makes exactly `pages` huge pages of `size` available.
    ///
    /// The kernel gives up on a stretch of memory in which somebody uses a page just then, so it is asked several times.
    ///
    /// # Errors
    /// [`SettingRefused`] if that is not allowed or the memory is not there; the pool is put back.
    pub fn with_huge_pages(self, size: HugePageSize, pages: u64) -> Result<Self, SettingRefused> {
        let what = || format!("huge pages of {size}");
        let pool = HugePagePool::read(size).map_err(|error| SettingRefused::new(what(), error))?;
        let taken = pool.total - pool.free + pool.reserved;
        let file = format!("/sys/kernel/mm/hugepages/{}/nr_hugepages", size.directory());
        let wanted = (taken + pages).to_string();
        let settings = self.set(&file, &wanted)?;
        let mut attempt = 1;
        loop {
            let got =
                HugePagePool::read(size).map_err(|error| SettingRefused::new(what(), error))?.available();
            if got == pages {
                return Ok(settings);
            }
            if attempt == ATTEMPTS {
                return Err(SettingRefused::new(what(), format!("{pages} wanted, {got} to be had")));
            }
            attempt += 1;
            thread::sleep(PAUSE);
            fs::write(&file, &wanted).map_err(|error| SettingRefused::new(&file, error))?;
        }
    }
}

impl Drop for HostSettings {
    fn drop(&mut self) {
        for (path, old) in self.changed.drain(..).rev() {
            if let Err(error) = fs::write(&path, &old) {
                eprintln!("could not put {old} back into {}: {error}", path.display());
            }
        }
    }
}
