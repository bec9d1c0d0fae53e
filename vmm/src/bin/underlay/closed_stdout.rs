//! Whether stdout was open when the process began.
//!
//! The standard library opens /dev/null in place of a missing descriptor 0, 1 or 2 before `main` runs, and whoever
//! starts this program with its output thrown away gives it the same: what is written would be lost in silence. So
//! this looks earlier, among the functions that the dynamic linker calls before `main`.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Outcome, failure::Failure};

static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Refuses to go on if nobody can get what will be printed.
pub(crate) fn check() -> Outcome {
    // Written before there was a second thread.
    if WAS_CLOSED.load(Ordering::Relaxed) {
        return Err(Failure::Host(anyhow::anyhow!(
            "stdout was closed before underlay started; redirect it to a file, or to /dev/null"
        )));
    }
    Ok(())
}

#[expect(unsafe_code, reason = "what runs before `main` is found by the name of its section")]
mod early {
    use super::{Ordering, WAS_CLOSED};

    // SAFETY: the section holds pointers to functions of the C ABI, which this is. The linker calls it once, with
    // arguments that a function without parameters ignores; libc is initialized by then, and the function uses nothing
    // of Rust's runtime.
    #[unsafe(link_section = ".init_array")]
    #[used]
    static LOOK: extern "C" fn() = look;

    extern "C" fn look() {
        // SAFETY: F_GETFD takes any number and changes nothing.
        let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
        WAS_CLOSED.store(flags == -1, Ordering::Relaxed);
    }
}
