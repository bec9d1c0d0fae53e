//! The faults that are reported.

use std::io;
use std::os::fd::AsRawFd;

use super::super::inject::Operation;
use super::{StopEvent, Userfaultfd};

/// UFFD_EVENT_PAGEFAULT.
const PAGEFAULT: u8 = 0x12;
const FLAG_WP: u64 = 1 << 1;
const FLAG_MINOR: u64 = 1 << 2;

/// A fault that somebody sleeps in until it is resolved, or was interrupted in since: there may be several of one
/// access, and stale ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// The host address, in the window that was registered. KVM's come without the offset in their page.
    pub(crate) address: u64,
    /// What stands in the way of the access.
    pub(crate) kind: FaultKind,
}

/// What stands in the way of an access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// The file has no page there.
    #[default]
    Missing,
    /// The file has the page, and the window does not map it.
    Minor,
    /// It is a write, and the page is write-protected.
    WriteProtected,
}

/// `struct uffd_msg` of a page fault.
#[repr(C)]
#[derive(Clone, Copy)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    /// The thread that faulted, had its number been agreed on.
    thread: u64,
}

impl Message {
    const NONE: Self = Self { event: 0, reserved: [0; 7], flags: 0, address: 0, thread: 0 };

    /// The fault that the message tells of; no other messages were agreed on.
    fn fault(self) -> Option<Event> {
        let kind = match self.flags {
            flags if flags & FLAG_WP != 0 => FaultKind::WriteProtected,
            flags if flags & FLAG_MINOR != 0 => FaultKind::Minor,
            _ => FaultKind::Missing,
        };
        (self.event == PAGEFAULT).then_some(Event { address: self.address, kind })
    }
}

impl Userfaultfd {
    /// Takes at most `N` events, as many as there are, without waiting and without allocating; returns them.
    ///
    /// Whoever takes an event has to resolve it or to wake its address: the kernel tells of it once.
    ///
    /// # Errors
    /// `EINVAL` before a handshake; nothing was taken. No events is no error, nor is an interruption.
    pub(crate) fn read_batch<'a, const N: usize>(
        &self,
        batch: &'a mut [Event; N],
    ) -> io::Result<&'a [Event]> {
        let mut messages = [Message::NONE; N];
        let read = match self.read_messages(&mut messages) {
            Ok(read) => read,
            Err(error) if is_transient(&error) => 0,
            Err(error) => return Err(error),
        };
        let mut taken = 0;
        let faults = messages.iter().take(read).filter_map(|message| message.fault());
        for (slot, fault) in batch.iter_mut().zip(faults) {
            *slot = fault;
            taken += 1;
        }
        Ok(&batch[..taken])
    }

    /// Sleeps until there are events or `stop` was asked for; returns whether it was. May also return for nothing, and
    /// another reader may have the events by then.
    ///
    /// Every thread that waits on one userfaultfd is woken by each event.
    ///
    /// # Errors
    /// What poll returned; `EINVAL` before a handshake.
    pub(crate) fn wait(&self, stop: &StopEvent) -> io::Result<bool> {
        let of = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut polled = [of(self.fd.as_raw_fd()), of(stop.as_raw_fd())];
        match self.poll(&mut polled) {
            Ok(()) => {}
            Err(error) if is_transient(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
        let [events, stop] = polled.map(|polled| polled.revents);
        if events & (libc::POLLERR | libc::POLLNVAL) != 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(stop != 0)
    }

    fn poll(&self, polled: &mut [libc::pollfd; 2]) -> io::Result<()> {
        self.injector.check(Operation::Poll)?;
        // SAFETY: the kernel reads and writes two `pollfd`, which is how many there are.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), 2, -1) };
        if ready < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn read_messages(&self, messages: &mut [Message]) -> io::Result<usize> {
        self.injector.check(Operation::ReadEvents)?;
        let bytes = size_of_val(messages);
        // SAFETY: the kernel writes at most so many bytes there, whole messages, of which any bytes are valid.
        let read = unsafe { libc::read(self.fd.as_raw_fd(), messages.as_mut_ptr().cast(), bytes) };
        let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
        Ok(read / size_of::<Message>())
    }
}

/// Whether `error` only says that there is nothing yet.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
