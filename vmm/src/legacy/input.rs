//! What the user types: to the guest, but for an escape that ends the guest.

use std::{
    io::{self, Write},
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, Mutex, PoisonError},
};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::{Console, SerialConsole};

/// What begins an escape: Ctrl-A.
const ESCAPE: u8 = 1;
const QUIT: u8 = b'x';
/// More than a serial port has room for.
const CHUNK: usize = 64;

/// Finds escapes in what is typed: Ctrl-A x ends the guest, Ctrl-A twice is one Ctrl-A.
#[derive(Clone, Copy, Debug, Default)]
pub struct Escape {
    begun: bool,
}

/// What a typed byte means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typed {
    /// It is the guest's.
    Byte(u8),
    /// It begins an escape, or is nothing.
    Nothing,
    /// The user wants the guest to end.
    Quit,
}

impl Escape {
    /// What `byte` means after those before it.
    pub const fn typed(&mut self, byte: u8) -> Typed {
        let begun = self.begun;
        self.begun = !begun && byte == ESCAPE;
        match (begun, byte) {
            (false, ESCAPE) => Typed::Nothing,
            (true, QUIT) => Typed::Quit,
            (_, byte) => Typed::Byte(byte),
        }
    }
}

/// Carries standard input to a serial console, on the event loop.
pub struct Input<W: Write> {
    serial: Arc<Mutex<SerialConsole<W>>>,
    console: Arc<Console>,
    /// With a terminal only.
    escape: Option<Escape>,
    quit: Box<dyn FnMut() + Send>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Readable input is told by the event loop.
    Watched,
    /// The guest has to read first.
    Full,
    /// A file: always readable, and the event loop takes none.
    File,
    /// There is no more.
    Ended,
}

impl<W: Write> Input<W> {
    /// Types into `serial`. With `is_terminal`, escapes are looked for, and call `quit`.
    pub fn new(
        serial: Arc<Mutex<SerialConsole<W>>>,
        console: Arc<Console>,
        is_terminal: bool,
        quit: Box<dyn FnMut() + Send>,
    ) -> Self {
        let escape = is_terminal.then(Escape::default);
        Self { serial, console, escape, quit, state: State::Watched }
    }

    fn watched() -> Events {
        Events::new_raw(io::stdin().as_raw_fd(), EventSet::IN)
    }

    /// Reads what there is room for, and says how it goes on.
    fn read(&mut self) -> State {
        let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = [0; CHUNK];
        let room = serial.room().min(CHUNK);
        if room == 0 {
            return State::Full;
        }
        let bytes = match nix::unistd::read(io::stdin(), &mut bytes[..room]) {
            Ok(0) => return State::Ended,
            Ok(count) => &bytes[..count],
            Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => return State::Watched,
            Err(errno) => {
                log::debug!("standard input cannot be read: {errno}");
                return State::Ended;
            }
        };
        let Some(escape) = &mut self.escape else {
            serial.enqueue(bytes);
            return State::Watched;
        };
        for byte in bytes {
            match escape.typed(*byte) {
                Typed::Byte(byte) => serial.enqueue(&[byte]),
                Typed::Nothing => {}
                Typed::Quit => (self.quit)(),
            }
        }
        State::Watched
    }

    /// Reads a file until the guest has to read first.
    fn read_file(&mut self) -> State {
        loop {
            match self.read() {
                State::Watched => {}
                State::Ended => return State::Ended,
                State::Full | State::File => return State::File,
            }
        }
    }
}

impl<W: Write> MutEventSubscriber for Input<W> {
    fn init(&mut self, ops: &mut EventOps) {
        let room = Events::new_raw(self.console.room().as_raw_fd(), EventSet::IN);
        if let Err(error) = ops.add(room) {
            log::error!("typed input cannot be watched: {error:?}");
        }
        // epoll takes no regular file.
        if ops.add(Self::watched()).is_err() {
            self.state = self.read_file();
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let fd: RawFd = events.fd();
        let before = self.state;
        if fd == self.console.room().as_raw_fd() {
            let _taken = self.console.room().read();
            match before {
                State::Full => {
                    self.state = if ops.add(Self::watched()).is_ok() { State::Watched } else { State::Ended };
                }
                State::File => self.state = self.read_file(),
                State::Watched | State::Ended => {}
            }
        } else {
            self.state = self.read();
            if matches!(self.state, State::Full | State::Ended)
                && let Err(error) = ops.remove(Self::watched())
            {
                log::debug!("standard input is watched on: {error:?}");
            }
        }
    }
}

impl<W: Write> std::fmt::Debug for Input<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("state", &self.state).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> Vec<Typed> {
        let mut escape = Escape::default();
        bytes.iter().map(|byte| escape.typed(*byte)).filter(|typed| *typed != Typed::Nothing).collect()
    }

    #[test]
    fn an_escape_is_found_across_bytes() {
        use Typed::{Byte, Quit};

        assert_eq!(typed(b"ax"), [Byte(b'a'), Byte(b'x')]);
        assert_eq!(typed(b"\x01x"), [Quit]);
        assert_eq!(typed(b"\x01\x01x"), [Byte(1), Byte(b'x')]);
        assert_eq!(typed(b"\x01yx"), [Byte(b'y'), Byte(b'x')]);
    }
}
