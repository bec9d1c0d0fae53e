//! A pipe that nobody reads.

use std::io::{self, PipeReader, PipeWriter, pipe};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// A pipe without a byte of room: the end that is to be read, and the one that is written.
///
/// # Errors
/// What `pipe`, `fcntl` or `write` returned.
pub fn pipe_without_room() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = pipe()?;
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    match io::copy(&mut io::repeat(0), &mut &writer) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
        _ => fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty()))?,
    };
    Ok((reader, writer))
}
