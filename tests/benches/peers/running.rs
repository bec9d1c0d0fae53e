//! A VMM that runs, and what its guest has written to the serial port.

use std::{
    error::Error,
    io::Read,
    os::fd::AsFd,
    path::Path,
    process::{Child, ChildStdout, Stdio},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::monitor::{Guest, Monitor};

/// A guest that says nothing for so long never will: many times a boot of Linux on a KVM that emulates its kernel.
const PATIENCE: Duration = Duration::from_mins(2);

/// Ends with this value.
pub(crate) struct Running {
    monitor: Monitor,
    process: Child,
    console: ChildStdout,
    started: Instant,
    text: String,
    /// Where in `text` is not yet looked at.
    read: usize,
}

impl Running {
    pub(crate) fn start(monitor: Monitor, guest: &Guest<'_>, folder: &Path) -> Result<Self, Box<dyn Error>> {
        let mut command = monitor.command(guest, folder)?;
        // What it complains of is shown if it ends before its guest has said what is waited for.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut process = command.spawn()?;
        let console = process.stdout.take().ok_or("stdout is piped")?;
        Ok(Self { monitor, process, console, started, text: String::new(), read: 0 })
    }

    /// Waits until the guest has written `words`, after all that was waited for before; the time since it was started.
    /// A process whose guest says nothing for too long is killed.
    pub(crate) fn until(mut self, words: &str) -> Result<(Duration, Self), Box<dyn Error>> {
        let mut buffer = [0; 4096];
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.text[self.read..].find(words) {
                let took = self.started.elapsed();
                self.read += at + words.len();
                return Ok((took, self));
            }
            let rest = PollTimeout::try_from(deadline.saturating_duration_since(Instant::now()))?;
            if poll(&mut [PollFd::new(self.console.as_fd(), PollFlags::POLLIN)], rest)? == 0 {
                self.process.kill()?;
            }
            match self.console.read(&mut buffer)? {
                0 => return Err(self.ended_before(words)),
                len => self.text.push_str(&String::from_utf8_lossy(&buffer[..len])),
            }
        }
    }

    fn ended_before(mut self, words: &str) -> Box<dyn Error> {
        let mut complaints = String::new();
        if let Some(mut stderr) = self.process.stderr.take() {
            // What can be read of it is better than nothing.
            let _read = stderr.read_to_string(&mut complaints);
        }
        let (name, text) = (self.monitor.name(), &self.text);
        format!("{name} ended before its guest wrote {words:?}:\n{text}\n{complaints}").into()
    }

    /// The figure behind the last `key` that was waited for or passed over.
    pub(crate) fn last_figure(&self, key: &str) -> Option<f64> {
        let (_, after) = self.text[..self.read].rsplit_once(key)?;
        after.split_whitespace().next()?.parse().ok()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended is not there to be killed, and is waited for all the same.
        let _ended = self.process.kill();
        let _status = self.process.wait();
    }
}
