//! What the guest writes to its console, on the way out.
//!
//! The serial port is everybody's: other vCPUs ask it for its state, and the event loop types into it. So nobody waits under its
//! lock for room in a pipe: what is written there is queued, and the vCPU that wrote it sees it out afterwards.
//!
//! ```text
//! vCPU, with the serial port's lock        the same vCPU, with the sink's lock
//! queue the byte                           wait for room; write what is queued
//!                                          (or leave it, if something is wanted of this vCPU)
//! ```

use std::{
    collections::VecDeque,
    fmt,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Console;

/// Written at a time: whatever has room at all, a pipe or a terminal, has room for so many bytes.
const CHUNK: usize = 256;

/// Where a console's output goes.
pub enum Sink {
    /// This process's standard output.
    Stdout,
    /// Somewhere that always has room.
    Writer(Box<dyn Write + Send>),
}

/// What is on its way to a sink.
#[derive(Debug)]
pub struct Output {
    console: Arc<Console>,
    /// Below the serial port's lock and the sink's, and above none.
    queued: Mutex<VecDeque<u8>>,
    /// Above `queued` only: whoever waits for room holds it, and nothing else.
    sink: Mutex<Sink>,
}

/// The end of an [`Output`] that the serial port writes to: it always has room.
#[derive(Debug)]
pub struct Queue(pub Arc<Output>);

impl Output {
    /// Nothing is on its way to `sink`. What is lost is told by `console`.
    #[must_use]
    pub fn new(console: &Arc<Console>, sink: Sink) -> Arc<Self> {
        Arc::new(Self { console: Arc::clone(console), queued: Mutex::default(), sink: Mutex::new(sink) })
    }

    /// Writes what is queued. Waits for room, until `attention` is readable: then the rest stays queued.
    pub fn flush(&self, attention: BorrowedFd<'_>) {
        if self.lock_queued().is_empty() {
            return;
        }
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = [0; CHUNK];
        loop {
            let queued = self.lock_queued();
            let count = queued.len().min(CHUNK);
            for (byte, queued) in bytes.iter_mut().zip(queued.iter()) {
                *byte = *queued;
            }
            drop(queued);
            if count == 0 {
                return;
            }
            let gone = match sink.write(&bytes[..count], attention) {
                Ok(written) if written > 0 => written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => {
                    self.console.note_lost();
                    count
                }
            };
            self.lock_queued().drain(..gone);
        }
    }

    fn lock_queued(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink {
    /// Writes some of `bytes`. `WouldBlock` if there is no room, and `attention` is readable.
    fn write(&mut self, bytes: &[u8], attention: BorrowedFd<'_>) -> io::Result<usize> {
        let stdout = match self {
            Self::Stdout => io::stdout(),
            Self::Writer(writer) => return writer.write(bytes),
        };
        let mut waits =
            [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT), PollFd::new(attention, PollFlags::POLLIN)];
        poll(&mut waits, PollTimeout::NONE)?;
        // An error is an answer too: the write tells which.
        if waits[0].any() == Some(false) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(nix::unistd::write(stdout, bytes)?)
    }
}

impl Write for Queue {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock_queued().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdout => "Stdout",
            Self::Writer(_) => "Writer",
        })
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::eventfd::EventFd;

    use super::*;

    /// Has room for so many bytes.
    struct Full(Arc<Mutex<Vec<u8>>>, usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut taken = self.0.lock().unwrap();
            let count = bytes.len().min(self.1 - taken.len());
            taken.extend(&bytes[..count]);
            if count == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn output(room: usize) -> (Arc<Mutex<Vec<u8>>>, Arc<Output>) {
        let taken = Arc::<Mutex<Vec<u8>>>::default();
        let sink = Sink::Writer(Box::new(Full(Arc::clone(&taken), room)));
        (taken, Output::new(&Console::new().unwrap(), sink))
    }

    #[test]
    fn what_is_queued_is_written_in_order_and_once() {
        let (taken, output) = output(1 << 20);
        let (mut queue, attention) = (Queue(Arc::clone(&output)), EventFd::new().unwrap());
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(3 * CHUNK + 1).collect();

        for part in bytes.chunks(100) {
            queue.write_all(part).unwrap();
        }
        output.flush(attention.as_fd());
        output.flush(attention.as_fd());

        assert_eq!(*taken.lock().unwrap(), bytes);
    }

    #[test]
    fn what_finds_no_room_stays_queued() {
        let (taken, output) = output(2);
        let attention = EventFd::new().unwrap();
        Queue(Arc::clone(&output)).write_all(b"abc").unwrap();

        output.flush(attention.as_fd());

        assert_eq!(*taken.lock().unwrap(), b"ab");
        assert_eq!(*output.lock_queued(), *b"c");
    }

    #[test]
    fn what_nobody_takes_is_lost_and_told() {
        let console = Console::new().unwrap();
        let full: &mut [u8] = &mut [];
        let output = Output::new(&console, Sink::Writer(Box::new(full)));
        let attention = EventFd::new().unwrap();
        Queue(Arc::clone(&output)).write_all(b"lost").unwrap();

        output.flush(attention.as_fd());

        assert!(console.has_lost_output());
        assert!(output.lock_queued().is_empty());
    }
}
