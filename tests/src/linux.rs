//! The Linux that real guests boot: what resources/kernel/build.sh and resources/initrd/build.sh have built, and Debian's, which
//! resources/debian/fetch.sh has fetched.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, PoisonError},
    thread,
};

/// The guests of all tests of this program.
static QUEUE: Mutex<Queue> = Mutex::new(Queue { running: 0, comers: 0, started: 0 });
static CHANGED: Condvar = Condvar::new();

/// Who comes first starts first: else guests of one vCPU, which find room at once, would keep one of two waiting till the end,
/// and with it the thread that another guest could be started on.
struct Queue {
    /// vCPUs of guests that run now.
    running: usize,
    /// How many have come, and how many of them have started.
    comers: u64,
    started: u64,
}

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
    /// Waits until there is room for a guest of so many vCPUs, or no other guest, after those who came before.
    #[must_use]
    pub fn wait(vcpus: usize) -> Self {
        let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
        let number = queue.comers;
        queue.comers += 1;
        let has_to_wait =
            |queue: &mut Queue| queue.started < number || (queue.running > 0 && queue.running + vcpus > cpus);
        let mut queue = CHANGED.wait_while(queue, has_to_wait).unwrap_or_else(PoisonError::into_inner);
        queue.started += 1;
        queue.running += vcpus;
        drop(queue);
        CHANGED.notify_all();
        Self { vcpus }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        QUEUE.lock().unwrap_or_else(PoisonError::into_inner).running -= self.vcpus;
        CHANGED.notify_all();
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
