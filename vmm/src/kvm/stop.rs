//! Taking a vCPU out of KVM_RUN from another thread, without a window in which the request is lost.
//!
//! ```text
//! controller                      vCPU thread
//! stop = true
//!                                 reads stop: already true -> does not enter   (required: no entry)
//! or
//!                                 reads stop: false
//! stop = true
//! signal ------------------------ handler: kvm_run.immediate_exit = 1
//!                                 KVM_RUN returns EINTR at once                (required: no entry)
//! or
//!                                 KVM_RUN
//! signal ------------------------ KVM_RUN returns EINTR                        (required: leaves)
//! ```
//! A signal alone would be lost between the check and KVM_RUN; `immediate_exit`, set by the handler on the vCPU's
//! own thread, closes that window. It is cleared before each check, so that a stray signal ends one KVM_RUN and not
//! all that follow; a signal that was meant finds its flag set already, before the clearing as after it.

use std::{
    cell::Cell,
    io, ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering, compiler_fence},
    },
    thread::JoinHandle,
};

use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

thread_local! {
    /// `kvm_run.immediate_exit` of the vCPU that this thread is running, or null.
    ///
    /// Const-initialised and without a destructor, so that the handler may read it at any moment.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// The real-time signal that takes a vCPU out of KVM_RUN; its handler is installed once made.
#[derive(Clone, Copy, Debug)]
pub struct StopSignal(());

/// Asks one vCPU to stop. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct StopHandle {
    requested: Arc<AtomicBool>,
}

/// While it lives, the stop signal ends this thread's KVM_RUN.
#[derive(Debug)]
pub(super) struct Armed(());

impl StopSignal {
    /// Installs the handler for the process. Doing so again is harmless.
    ///
    /// # Errors
    /// What `sigaction` returned.
    pub fn install() -> io::Result<Self> {
        register_signal_handler(SIGRTMIN(), on_signal)?;
        Ok(Self(()))
    }
}

impl StopHandle {
    /// Asks the vCPU that `thread` runs to leave KVM_RUN and not to enter it again. Returns at once.
    pub fn stop<T>(&self, _installed: StopSignal, thread: &JoinHandle<T>) {
        // Pairs with the load in `is_requested`. The order against the signal is the kernel's: a thread that takes
        // the signal has seen everything its sender did before.
        self.requested.store(true, Ordering::Release);
        if !thread.is_finished() {
            // An error means that the thread has ended meanwhile, which is what was asked for.
            let _ended = thread.kill(SIGRTMIN());
        }
    }

    /// Takes the request back; the vCPU may enter KVM_RUN again. The caller sees to it that it does not take back a
    /// request that came meanwhile: both under one lock.
    pub fn clear(&self) {
        // It orders nothing: what was asked is told under the callers' lock.
        self.requested.store(false, Ordering::Relaxed);
    }

    /// Whether somebody asked this vCPU to stop.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        // Pairs with the store in `stop`.
        self.requested.load(Ordering::Acquire)
    }
}

impl Armed {
    /// Clears `*immediate_exit`, a byte of the `kvm_run` of the vCPU that this thread runs; from now on the stop
    /// signal sets it.
    ///
    /// # Safety
    /// `immediate_exit` stays valid for writes by this thread until the returned value is dropped, on this thread.
    pub(super) unsafe fn new(immediate_exit: *mut u8) -> Self {
        IMMEDIATE_EXIT.set(immediate_exit);
        // The handler runs on this thread, so only the compiler could let it see these out of order.
        compiler_fence(Ordering::SeqCst);
        // SAFETY: the caller keeps the byte valid.
        unsafe { immediate_exit.write_volatile(0) };
        compiler_fence(Ordering::SeqCst);
        Self(())
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}

extern "C" fn on_signal(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: `Armed` put the pointer there on this very thread and takes it away before it goes stale. The byte
        // is shared with the kernel only, which reads it on entry to KVM_RUN.
        unsafe { flag.write_volatile(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal_this_thread() {
        // SAFETY: it has no precondition.
        let this = unsafe { libc::pthread_self() };
        // SAFETY: the signal's handler is installed, and this thread is alive.
        let result = unsafe { libc::pthread_kill(this, SIGRTMIN()) };
        assert_eq!(result, 0);
    }

    #[test]
    fn a_signal_sets_the_flag_while_armed_and_arming_clears_it() {
        StopSignal::install().unwrap();
        let mut flag = 7;
        // SAFETY: `flag` outlives the value.
        let armed = unsafe { Armed::new(&raw mut flag) };
        assert_eq!(flag, 0);

        signal_this_thread();
        assert_eq!(flag, 1);
        drop(armed);

        // SAFETY: as above.
        let armed = unsafe { Armed::new(&raw mut flag) };
        assert_eq!(flag, 0, "a stray signal does not end the next entry");
        drop(armed);
        signal_this_thread();
        assert_eq!(flag, 0, "nobody writes to a byte that nobody lends");
    }

    #[test]
    fn a_request_is_seen_by_every_clone() {
        let signal = StopSignal::install().unwrap();
        let stop = StopHandle::default();
        let seen = stop.clone();
        let thread = std::thread::spawn(|| ());

        stop.stop(signal, &thread);

        assert!(seen.is_requested());
        thread.join().unwrap();
    }
}
