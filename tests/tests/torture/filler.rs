//! A source of memory that often fails: it panics, sleeps past its deadline, or says that it cannot.

use std::{
    io, panic,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use guest_mem::Filler;
use vmm::driver::{RAM_BASE, pattern};

use super::zones::NEW;

/// How long a filler may take.
pub(crate) const DEADLINE: Duration = Duration::from_millis(20);
const PLANTED: &str = "a filler panics, as planted";

/// Fills memory with the pattern of [`NEW`], in the end.
#[derive(Debug, Default)]
pub(crate) struct Unreliable {
    calls: AtomicU64,
    /// From now on it is reliable.
    calm: AtomicBool,
}

impl Unreliable {
    pub(crate) fn calm_down(&self) {
        self.calm.store(true, Relaxed);
    }
}

impl Filler for Unreliable {
    fn name(&self) -> &'static str {
        "unreliable"
    }

    fn fill(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let call = self.calls.fetch_add(1, Relaxed) + 1;
        if !self.calm.load(Relaxed) {
            match call {
                call if call.is_multiple_of(61) => panic!("{PLANTED}"),
                call if call.is_multiple_of(83) => return Err(io::ErrorKind::TimedOut.into()),
                call if call.is_multiple_of(151) => {
                    thread::sleep(DEADLINE * 3);
                    // Nobody may ever see this.
                    into.fill(0xee);
                    return Ok(());
                }
                _ => {}
            }
        }
        let addresses = (RAM_BASE + offset..).step_by(8);
        for (word, address) in into.as_chunks_mut().0.iter_mut().zip(addresses) {
            *word = pattern(address, NEW).to_le_bytes();
        }
        Ok(())
    }
}

/// Panics that are planted are not told of.
pub(crate) fn keep_planted_panics_quiet() {
    let others = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() != Some(PLANTED) {
            others(info);
        }
    }));
}
