//! Where results go: written at the end, and found unwritable at the start.

mod place;
mod replacement;

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, BufWriter, Seek, Write},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use vmm::interrupt::Interrupt;

use crate::{Outcome, failure::Failure};
use place::{Place, PlaceError};
use replacement::Replacement;

/// How often a pipe is tried that has no reader yet.
const READER_INTERVAL: Duration = Duration::from_millis(20);

/// Where a result is to go. Nothing has been opened yet.
#[derive(Debug)]
pub(crate) struct Destination {
    /// As the user gave it.
    path: PathBuf,
    place: Place,
}

/// Where a result goes. An interrupted run leaves an existing file as it was, makes no new one, and writes nothing
/// into a pipe.
#[derive(Debug)]
pub(crate) struct Output {
    path: PathBuf,
    target: Target,
    /// What was written in small pieces and has still to be copied to the target.
    spool: Option<File>,
}

#[derive(Debug)]
enum Target {
    Stdout,
    /// A new file, which replaces the wanted one when it is whole.
    Replace(Replacement),
    /// A pipe or a device.
    InPlace(File),
}

/// A result cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
struct Unwritable<E: std::error::Error + 'static> {
    path: PathBuf,
    #[source]
    source: E,
}

impl Destination {
    /// Finds out what `path` stands for.
    pub(crate) fn of(path: &Path) -> Outcome<Self> {
        let refused = |source: PlaceError| Failure::user(Unwritable { path: path.to_owned(), source });
        Ok(Self { path: path.to_owned(), place: Place::of(path).map_err(refused)? })
    }

    /// Whether it goes to stdout.
    pub(crate) const fn is_stdout(&self) -> bool {
        matches!(self.place, Place::Stdout)
    }

    /// Whether two results would be written into one file.
    pub(crate) fn clashes(&self, other: &Self) -> bool {
        self.place.clashes(&other.place)
    }

    /// Whether it is the file that `metadata` describes.
    pub(crate) fn is(&self, metadata: &Metadata) -> bool {
        self.place.is(metadata)
    }

    /// Gets ready to write, and finds out whether that is possible. Waits for the reader of a pipe.
    pub(crate) fn open(self, interrupt: &Interrupt) -> Outcome<Output> {
        let Self { path, place } = self;
        let target = match place {
            Place::Stdout => Ok(Target::Stdout),
            Place::File { path: real, existing } => {
                Replacement::new(real, existing.as_ref()).map(Target::Replace)
            }
            Place::Special { metadata } => {
                open_in_place(&path, metadata.file_type().is_fifo(), interrupt).map(Target::InPlace)
            }
        };
        match target {
            Ok(target) => Ok(Output { path, target, spool: None }),
            Err(_) if interrupt.is_raised() => Err(Failure::Interrupted),
            Err(source) => Err(Failure::user(Unwritable { path, source })),
        }
    }
}

/// Opens a pipe or a device. A FIFO is opened when it has a reader; until then, an interrupt ends the wait.
fn open_in_place(path: &Path, fifo: bool, interrupt: &Interrupt) -> io::Result<File> {
    let open = || OpenOptions::new().append(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    loop {
        match open() {
            Err(error) if fifo && error.raw_os_error() == Some(libc::ENXIO) => {
                if interrupt.is_raised() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                thread::sleep(READER_INTERVAL);
            }
            opened => {
                let file = opened?;
                // Only the opening must not block.
                fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
                return Ok(file);
            }
        }
    }
}

impl Output {
    /// Lets `write` write everything, and puts it in place.
    pub(crate) fn write(self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Outcome {
        let result = match &self.target {
            Target::Stdout => return print(write),
            Target::Replace(replacement) => buffered(replacement.file(), write),
            Target::InPlace(file) => buffered(file, write),
        };
        result.map_err(|source| failed(&self.path, source))?;
        self.finish()
    }

    /// What to write to in small pieces; call [`finish`](Self::finish) at the end. What cannot be taken back once it
    /// is written, to a pipe or a terminal, is kept in a file without a name until then.
    pub(crate) fn pieces(&mut self) -> Outcome<File> {
        let pieces = match &self.target {
            Target::Replace(replacement) => replacement.file().try_clone(),
            Target::Stdout | Target::InPlace(_) => tempfile::tempfile().and_then(|spool| {
                self.spool = Some(spool.try_clone()?);
                Ok(spool)
            }),
        };
        pieces.map_err(|source| failed(&self.path, source))
    }

    /// Puts what was written in its place.
    pub(crate) fn finish(self) -> Outcome {
        let copy = |spool: Option<File>, out: &mut dyn Write| {
            let Some(mut spool) = spool else {
                return Ok(());
            };
            spool.rewind()?;
            io::copy(&mut spool, out)?;
            out.flush()
        };
        match self.target {
            Target::Stdout => copy(self.spool, &mut io::stdout()).map_err(Failure::of_stdout),
            Target::InPlace(mut file) => {
                copy(self.spool, &mut file).map_err(|source| failed(&self.path, source))
            }
            Target::Replace(replacement) => {
                replacement.persist().map_err(|source| failed(&self.path, source))
            }
        }
    }
}

fn failed(path: &Path, source: io::Error) -> Failure {
    Failure::host(Unwritable { path: path.to_owned(), source })
}

/// How wide tables may be: the terminal's width, or none if stdout is not one.
pub(crate) fn terminal_width() -> Option<u16> {
    terminal_size::terminal_size().map(|(width, _)| width.0)
}

/// Lets `write` write to stdout.
pub(crate) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Outcome {
    buffered(io::stdout().lock(), write).map_err(Failure::of_stdout)
}

fn buffered(out: impl Write, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    write(&mut out)?;
    out.flush()
}

#[cfg(test)]
mod tests;
