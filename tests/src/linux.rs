//! The Linux that real guests boot: what resources/kernel/build.sh and resources/initrd/build.sh have built, and Debian's, which
//! resources/debian/fetch.sh has fetched.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, PoisonError},
    thread,
};

/// vCPUs of guests that run now, of all tests of this program.
static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// The right to run a Linux guest. Guests take turns, so that each vCPU has a CPU of the host: where KVM emulates kernel code,
/// vCPUs that spin for one that is not running take minutes.
#[derive(Debug)]
pub struct Turn {
    vcpus: usize,
}

/// A kernel, an initrd, and the command line with which they boot anywhere.
#[derive(Clone, Debug)]
pub struct Linux {
    /// The vmlinux.
    pub kernel: PathBuf,
    /// The cpio archive with the init of `resources/initrd`.
    pub initrd: PathBuf,
    /// Without what the init is to do.
    pub command_line: String,
}

impl Linux {
    /// What was built last.
    ///
    /// # Errors
    /// What has not been built, and what builds it.
    pub fn built() -> Result<Self, String> {
        let command_line = fs::read_to_string(root().join("resources/kernel/cmdline"))
            .map_err(|error| format!("resources/kernel/cmdline: {error}"))?;
        Ok(Self {
            kernel: made_by("kernel/build.sh", |path| begins(path, "vmlinux-"))?,
            initrd: made_by("initrd/build.sh", |path| {
                path.extension().is_some_and(|extension| extension == "cpio")
            })?,
            command_line: command_line.trim().to_owned(),
        })
    }

    /// The command line that has the init run `tests`.
    #[must_use]
    pub fn line_for(&self, tests: &str) -> String {
        format!("{} underlay.test={tests}", self.command_line)
    }
}

/// Debian's kernel, as its package has it: a bzImage.
///
/// # Errors
/// It has not been fetched, and what fetches it.
pub fn debian_kernel() -> Result<PathBuf, String> {
    made_by("debian/fetch.sh", |path| begins(path, "vmlinuz-"))
}

impl Turn {
    /// Waits until there is room for a guest of so many vCPUs, or no other guest.
    #[must_use]
    pub fn wait(vcpus: usize) -> Self {
        let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |running: &mut usize| *running > 0 && *running + vcpus > cpus;
        *ENDED.wait_while(running, is_full).unwrap_or_else(PoisonError::into_inner) += vcpus;
        Self { vcpus }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= self.vcpus;
        ENDED.notify_all();
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn begins(path: &Path, name: &str) -> bool {
    path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))
}

/// What `script`, a path below `resources`, has made last: a file whose name is right, in the folder under target/ that is
/// called like the script's.
fn made_by(script: &str, is_right: fn(&Path) -> bool) -> Result<PathBuf, String> {
    let folder = Path::new(script).parent().unwrap_or(Path::new(""));
    newest_in(&root().join("target").join(folder), is_right)
        .ok_or_else(|| format!("needs resources/{script} to have been run"))
}

/// The file in `folder` that was changed last, of those whose names are right.
fn newest_in(folder: &Path, is_right: fn(&Path) -> bool) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let right = entries.filter(|entry| is_right(&entry.path()));
    let changed = |entry: &fs::DirEntry| entry.metadata().and_then(|metadata| metadata.modified()).ok();
    right.max_by_key(changed).map(|entry| entry.path())
}
