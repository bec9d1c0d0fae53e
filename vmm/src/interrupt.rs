//! SIGINT and SIGTERM: noticed at once, acted upon where it is safe.
//!
//! The handler raises a flag and an event. Whoever works for long looks at the flag; whoever waits, waits for the
//! event as well. Everything then unwinds as after an error, so that nothing is left behind.
//!
//! A second signal ends the process at once, unless it comes with the first: `timeout` and a shell's job control send
//! one wish twice, to the process and to its group.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering},
    },
};

use nix::{
    errno::Errno,
    time::{ClockId, clock_gettime},
};
use vmm_sys_util::{eventfd::EventFd, signal::register_signal_handler};

use crate::legacy::terminal;

/// What a shell adds to the number of the signal that ended a program.
const EXIT_CODE_BASE: u8 = 128;
/// Signals within so many nanoseconds of the first are the same wish.
const SAME_WISH_NS: u64 = 500_000_000;

/// Says whether the user wants us to stop. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Interrupt {
    raised: Arc<AtomicBool>,
    event: Arc<EventFd>,
}

/// The one that the signal handler raises.
static ON_SIGNAL: OnceLock<Interrupt> = OnceLock::new();
/// The number of the signal that came last; SIGINT until then.
static SIGNAL: AtomicI32 = AtomicI32::new(libc::SIGINT);
/// When the first signal came, by CLOCK_MONOTONIC in nanoseconds; 0 if none has.
static FIRST_SIGNAL_NS: AtomicU64 = AtomicU64::new(0);

/// The exit code of a program that was interrupted, by the convention of shells: 130 for SIGINT, 143 for SIGTERM.
#[must_use]
pub fn exit_code() -> u8 {
    // The number stands alone: it orders nothing else.
    let signal = u8::try_from(SIGNAL.load(Ordering::Relaxed)).unwrap_or(0);
    EXIT_CODE_BASE.saturating_add(signal)
}

impl Interrupt {
    /// One that only [`raise`](Self::raise) raises.
    ///
    /// # Errors
    /// What `eventfd` returned.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self { raised: Arc::default(), event: Arc::new(event) })
    }

    /// The process's own, which SIGINT and SIGTERM raise from now on. A second signal, half a second after the first
    /// or later, ends the process at once.
    ///
    /// A signal that this process was started to ignore (`nohup`, `&` in a script) stays ignored.
    ///
    /// # Errors
    /// What `eventfd` or `sigaction` returned.
    pub fn on_signals() -> io::Result<Self> {
        let interrupt = if let Some(interrupt) = ON_SIGNAL.get() {
            interrupt
        } else {
            let new = Self::new()?;
            ON_SIGNAL.get_or_init(|| new)
        };
        for signal in [libc::SIGINT, libc::SIGTERM] {
            if !is_ignored(signal)? {
                register_signal_handler(signal, on_signal)?;
            }
        }
        Ok(interrupt.clone())
    }

    /// Asks everybody who looks to stop.
    pub fn raise(&self) {
        // Pairs with the load in `is_raised`.
        self.raised.store(true, Ordering::Release);
        // It fails only when the event is raised already.
        let _already = self.event.write(1);
    }

    /// Whether somebody asked us to stop.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        // Pairs with the store in `raise`.
        self.raised.load(Ordering::Acquire)
    }

    /// The flag itself, for those who know nothing of signals.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.raised)
    }
}

impl AsRawFd for Interrupt {
    /// Readable from the moment it is raised.
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

/// Async-signal-safe: atomics, `clock_gettime` and `write`; or `_exit`.
extern "C" fn on_signal(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let Some(interrupt) = ON_SIGNAL.get() else {
        return;
    };
    // What was interrupted may be about to look at it.
    let errno = Errno::last_raw();
    SIGNAL.store(signal, Ordering::Relaxed);
    let now = now_ns();
    // Nothing is published through the time, so it needs no ordering.
    match FIRST_SIGNAL_NS.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed) {
        Err(first) if is_another_wish(first, now) => exit_now(),
        _ => interrupt.raise(),
    }
    Errno::set_raw(errno);
}

/// Now, by CLOCK_MONOTONIC, and never 0.
fn now_ns() -> u64 {
    // The clock exists on every Linux: the call cannot fail.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned());
    now.max(1)
}

/// Whether a signal at `now` asks for more than the one at `first` did.
const fn is_another_wish(first: u64, now: u64) -> bool {
    now.saturating_sub(first) >= SAME_WISH_NS
}

/// Whether this process was started to ignore `signal`.
#[expect(unsafe_code, reason = "nix has no safe way to ask for a disposition")]
pub(crate) fn is_ignored(signal: libc::c_int) -> io::Result<bool> {
    let mut old = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the new action is null, so nothing changes; the old one is written to `old`, which is large enough.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), old.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it has written the whole action.
    let old = unsafe { old.assume_init() };
    Ok(old.sa_sigaction == libc::SIG_IGN)
}

#[expect(unsafe_code, reason = "`_exit` is the one way out of a signal handler, and has no safe wrapper")]
fn exit_now() -> ! {
    terminal::restore();
    // SAFETY: `_exit` takes any number, is async-signal-safe, and the kernel cleans up what is the process's.
    unsafe { libc::_exit(exit_code().into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_come_together_are_one_wish() {
        assert!(!is_another_wish(7, 7));
        assert!(!is_another_wish(7, 6 + SAME_WISH_NS));
        assert!(is_another_wish(7, 7 + SAME_WISH_NS));
        // Two threads may have read the clock in the other order.
        assert!(!is_another_wish(7, 6));
    }

    #[test]
    fn a_raised_interrupt_is_raised_for_all_its_clones() {
        let interrupt = Interrupt::new().unwrap();
        let clone = interrupt.clone();

        interrupt.raise();

        assert!(clone.is_raised());
        assert!(clone.flag().load(Ordering::Acquire));
    }
}
