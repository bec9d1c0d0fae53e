//! The user's terminal, handed to the guest while it runs and put back on every way out.
//!
//! Whoever holds [`RawTerminal`] puts it back when he drops it, also while a panic unwinds. A signal that ends the process
//! comes by no destructor: its handler calls [`restore`], which is safe there.
#![expect(unsafe_code, reason = "a signal handler may call tcsetattr, but nothing that allocates or locks")]

use std::{
    io,
    mem::MaybeUninit,
    sync::OnceLock,
    sync::atomic::{AtomicBool, Ordering},
};

use nix::unistd::{getpgrp, tcgetpgrp};
use vmm_sys_util::signal::register_signal_handler;

use crate::interrupt::is_ignored;

/// What the terminal was like. Set once, before it is changed, and never changed after: a handler may read it any time.
static BEFORE: OnceLock<libc::termios> = OnceLock::new();
/// Whether the terminal is the guest's.
static IS_RAW: AtomicBool = AtomicBool::new(false);

/// Signals that end a process and that nobody here makes anything else of.
const DEADLY: [libc::c_int; 6] =
    [libc::SIGHUP, libc::SIGQUIT, libc::SIGABRT, libc::SIGILL, libc::SIGFPE, libc::SIGSEGV];

/// The terminal is the guest's: what is typed goes to it at once and is not echoed, Ctrl-C is a byte like others.
#[derive(Debug)]
pub struct RawTerminal(());

/// What standard input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A terminal that this process may use.
    Terminal,
    /// A terminal that is somebody else's now: the shell's, which started this process in the background.
    Background,
    /// A file, a pipe, nothing.
    NoTerminal,
}

/// What standard input is to this process.
#[must_use]
pub fn standing() -> Standing {
    match tcgetpgrp(io::stdin()) {
        Ok(foreground) if foreground == getpgrp() => Standing::Terminal,
        Ok(_) => Standing::Background,
        Err(_) => Standing::NoTerminal,
    }
}

impl RawTerminal {
    /// Hands the terminal over. Output is left as it is: a line feed still begins a line.
    ///
    /// # Errors
    /// What `tcgetattr`, `tcsetattr` or `sigaction` returned.
    pub fn enter() -> io::Result<Self> {
        let before = *BEFORE.get_or_init(|| {
            let mut before = MaybeUninit::zeroed();
            // SAFETY: the structure is large enough; on failure it stays zeroed, which is valid too.
            let _result = unsafe { libc::tcgetattr(libc::STDIN_FILENO, before.as_mut_ptr()) };
            // SAFETY: it is plain data, zeroed or written by the kernel.
            unsafe { before.assume_init() }
        });
        let mut raw = before;
        raw.c_iflag &= !(libc::IXON | libc::ICRNL | libc::INLCR | libc::IGNCR | libc::ISTRIP | libc::BRKINT);
        raw.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ISIG | libc::IEXTEN);
        raw.c_cc[libc::VMIN] = 1;
        raw.c_cc[libc::VTIME] = 0;
        for signal in DEADLY {
            // `nohup` and the like have it ignored.
            if !is_ignored(signal)? {
                register_signal_handler(signal, on_deadly_signal)?;
            }
        }
        // Before the change: a signal in between puts back what is there already.
        IS_RAW.store(true, Ordering::Release);
        // SAFETY: the structure is initialized.
        if unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const raw) } != 0 {
            let error = io::Error::last_os_error();
            IS_RAW.store(false, Ordering::Release);
            return Err(error);
        }
        Ok(Self(()))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back, if it is the guest's. Async-signal-safe.
pub fn restore() {
    // Acquire: pairs with the Release in `enter`, so that what the terminal was is seen.
    if !IS_RAW.swap(false, Ordering::AcqRel) {
        return;
    }
    if let Some(before) = BEFORE.get() {
        // SAFETY: the structure is initialized, and the call may be made in a signal handler.
        let _gone = unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, before) };
    }
}

/// Puts the terminal back and lets the signal do what it always did.
extern "C" fn on_deadly_signal(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    restore();
    // SAFETY: puts the default action back, which is allowed in a handler.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: it may be called in a handler; the signal is delivered when this one returns.
    let _sent = unsafe { libc::raise(signal) };
}
