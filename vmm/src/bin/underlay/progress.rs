//! A bar on stderr, when that is a terminal.

use guest_mem::Backing;
use indicatif::{ProgressBar, ProgressStyle};
use vmm::measure::Progress;

/// Shows which sample of which backing is being taken. Its line is gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    started: bool,
}

impl Bar {
    /// A bar for `steps` samples. Draws nothing when stderr is not a terminal.
    pub(crate) fn new(steps: u64) -> Self {
        let bar = ProgressBar::new(steps);
        if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        Self { bar, started: false }
    }
}

impl Progress for Bar {
    fn sample(&mut self, backing: &Backing, sample: u32) {
        if std::mem::replace(&mut self.started, true) {
            self.bar.inc(1);
        }
        self.bar.set_message(match sample {
            0 => format!("{backing}, warm-up"),
            number => format!("{backing}, sample {number}"),
        });
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
