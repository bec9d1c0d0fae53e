//! A process that serves the API, and curl to ask it.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;
use underlay_tests::underlay_path;

/// Far longer than anything takes, so that a test that hangs tells where.
const PATIENCE: Duration = Duration::from_mins(5);

/// `underlay run`, with a folder for its socket and its console. Killed if the test fails.
pub(crate) struct Served {
    child: Child,
    pub(crate) folder: TempDir,
}

impl Served {
    /// With its API at `api` in the folder, and `options`; waits until it listens.
    #[track_caller]
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), options)
    }

    /// The same in a folder that holds files for it.
    #[track_caller]
    pub(crate) fn start_in(folder: TempDir, options: &[impl AsRef<OsStr>]) -> Self {
        let served = Self { child: spawn(&folder.path().join("api"), folder.path(), options), folder };
        wait_until("the API is served", || served.socket().exists());
        served
    }

    /// The same with these as its standard input, output and error.
    #[track_caller]
    pub(crate) fn start_on(folder: TempDir, options: &[impl AsRef<OsStr>], streams: [Stdio; 3]) -> Self {
        let served = Self { child: spawn_on(&folder.path().join("api"), options, streams), folder };
        wait_until("the API is served", || served.socket().exists());
        served
    }

    /// Starts another process in place of the one that has ended.
    pub(crate) fn start_again(&mut self, options: &[impl AsRef<OsStr>]) {
        self.child = spawn(&self.socket(), self.folder.path(), options);
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("api")
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The names of what is in the folder, in order.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    /// What the guest and underlay have written.
    pub(crate) fn console(&self) -> String {
        fs::read_to_string(self.folder.path().join("console")).unwrap()
    }

    /// Waits until the guest has written `text`.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) {
        wait_until(text, || {
            let ended = self.child.try_wait().unwrap();
            let console = self.console();
            assert!(ended.is_none() || console.contains(text), "{ended:?} before {text:?}:\n{console}");
            console.contains(text)
        });
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// The status and the body of the answer to a request, by curl.
    #[track_caller]
    pub(crate) fn curl(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "60"]);
        curl.args(["--write-out", "\n%{http_code}", "--request", method]);
        curl.arg("--unix-socket").arg(self.socket());
        if let Some(body) = body {
            curl.args(["--header", "Content-Type: application/json", "--data", &body.to_string()]);
        }
        let output = curl.arg(format!("http://localhost{path}")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, body) = self.curl("GET", path, None);
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    /// A request that is done.
    #[track_caller]
    pub(crate) fn tell(&self, method: &str, path: &str, body: &Value) {
        let (status, answer) = self.curl(method, path, Some(body));
        assert_eq!((status, &answer), (204, &Value::Null), "{method} {path} {body}");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It has ended already, unless the test fails.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Starts `underlay run` with its API at `socket`; what it writes goes to `console` in `folder`. It heeds signals, also
/// where this test was started to ignore them.
pub(crate) fn spawn(socket: &Path, folder: &Path, options: &[impl AsRef<OsStr>]) -> Child {
    let console = File::create(folder.join("console")).unwrap();
    spawn_on(socket, options, [Stdio::null(), console.try_clone().unwrap().into(), console.into()])
}

fn spawn_on(socket: &Path, options: &[impl AsRef<OsStr>], [stdin, stdout, stderr]: [Stdio; 3]) -> Child {
    let mut command = Command::new("env");
    command.arg("--default-signal=INT,TERM").arg(underlay_path());
    command.arg("run").arg("--api-sock").arg(socket).args(options);
    command.stdin(stdin).stdout(stdout).stderr(stderr).spawn().unwrap()
}

/// Waits until `is_so`, or panics.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
