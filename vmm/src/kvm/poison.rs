//! A guest that touches a poisoned page: the vCPU stops and says where, and the VMM lives on.
//!
//! The kernel answers the touch with SIGBUS on the vCPU's thread, and KVM_RUN with EINTR. Unhandled, the signal ends the
//! process; blocked or ignored, the vCPU would enter the guest and fault again for ever. So a handler notes the address,
//! and whoever runs the vCPU finds it. On any other thread the signal does what it always did.

use std::{cell::Cell, io};

use vmm_sys_util::signal::register_signal_handler;

use crate::legacy::terminal;

thread_local! {
    /// Whether this thread is in KVM_RUN. Const-initialised and without a destructor, so that the handler may read it at
    /// any moment.
    static RUNNING: Cell<bool> = const { Cell::new(false) };
    /// The host address that the guest touched and that is poisoned, or zero.
    static POISONED: Cell<usize> = const { Cell::new(0) };
}

/// Installs the handler for the process. Doing so again is harmless.
///
/// # Errors
/// What `sigaction` returned.
pub fn handle_poison() -> io::Result<()> {
    register_signal_handler(libc::SIGBUS, on_signal)?;
    Ok(())
}

/// While it lives, a SIGBUS of this thread is the guest's.
#[derive(Debug)]
pub(super) struct Guarded(());

impl Guarded {
    pub(super) fn new() -> Self {
        POISONED.set(0);
        RUNNING.set(true);
        Self(())
    }

    /// The host address of the poisoned page that the guest touched, if it did.
    #[expect(clippy::unused_self, reason = "what is noted while it does not live is nobody's")]
    pub(super) fn poisoned(&self) -> Option<u64> {
        Some(POISONED.get() as u64).filter(|address| *address != 0)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        RUNNING.set(false);
    }
}

extern "C" fn on_signal(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if RUNNING.get() {
        // SAFETY: the kernel passes a valid `siginfo_t` to a handler that was installed with SA_SIGINFO.
        let info = unsafe { &*info };
        // SAFETY: that of a SIGBUS has an address.
        let address = unsafe { info.si_addr() };
        POISONED.set(address.addr());
    } else {
        terminal::restore();
        // SAFETY: puts the default action back, with which the access that is made again ends the process.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    }
}
