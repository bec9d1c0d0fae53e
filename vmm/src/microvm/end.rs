//! How the run of a guest ends. The first who ends it says how; everybody else is too late.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use vmm_sys_util::eventfd::EventFd;

use super::GuestStopped;
use crate::kvm::VcpuError;

/// How a guest's run ended.
#[derive(Debug)]
pub enum Ending {
    /// The guest wrote this status to the exit port.
    Exited(u8),
    /// The guest reset its CPU, which is how Linux powers off and reboots here.
    Reset,
    /// The user or the control interface asked for it.
    Stopped,
    /// The guest got into a state that it does not come out of.
    Guest(Box<GuestStopped>),
    /// KVM_RUN failed.
    Kvm {
        /// The vCPU's number.
        vcpu: u32,
        /// What failed.
        source: VcpuError,
    },
    /// The thread of a vCPU panicked.
    Panicked {
        /// The vCPU's number.
        vcpu: u32,
    },
}

/// Where the ending is told. Shared by everybody who may end the run.
#[derive(Debug)]
pub(super) struct End {
    /// A leaf.
    how: Mutex<Option<Ending>>,
    /// Readable once the run has ended.
    event: EventFd,
    /// The same for who looks often.
    has_ended: AtomicBool,
}

impl End {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Arc::new(Self { how: Mutex::new(None), event, has_ended: AtomicBool::new(false) }))
    }

    /// Ends the run, unless somebody has.
    pub(super) fn set(&self, ending: Ending) {
        let mut how = self.how.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken or not, the first stays the first.
        if !self.has_ended() {
            *how = Some(ending);
            // Pairs with the load in `has_ended`.
            self.has_ended.store(true, Ordering::Release);
        }
        drop(how);
        // It fails only when the event is raised already.
        let _already = self.event.write(1);
    }

    pub(super) fn has_ended(&self) -> bool {
        // Pairs with the store in `set`.
        self.has_ended.load(Ordering::Acquire)
    }

    /// How it ended, once.
    pub(super) fn take(&self) -> Option<Ending> {
        self.how.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl AsRawFd for End {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ending_counts_and_is_told_once() {
        let end = End::new().unwrap();
        assert!(!end.has_ended());

        end.set(Ending::Exited(7));
        end.set(Ending::Reset);

        assert!(end.has_ended());
        assert!(matches!(end.take(), Some(Ending::Exited(7))));
        end.set(Ending::Stopped);
        assert!(end.take().is_none());
    }
}
