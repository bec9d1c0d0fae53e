//! Standard error, for threads that whoever does not read it must not hold up.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What is written at a time: a pipe that has room has room for a page.
const CHUNK: usize = 4096;

/// What found no room, in whole or in part, since something last did.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Writes `text`, which is whole lines, as far as there is room for it now. What is lost is counted, and told before what finds
/// room next.
pub fn write_if_room(text: &[u8]) {
    let mut stderr = io::stderr().lock();
    // A count that orders nothing, here and below.
    let lost = LOST.swap(0, Ordering::Relaxed);
    let told = if lost == 0 { String::new() } else { told(lost) };
    if !write_all_if_room(&mut stderr, told.as_bytes()) {
        LOST.fetch_add(lost + 1, Ordering::Relaxed);
    } else if !write_all_if_room(&mut stderr, text) {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether all of `bytes` found room. What cannot be written for another reason counts so: there is nobody else to tell.
fn write_all_if_room(out: &mut (impl Write + AsFd), bytes: &[u8]) -> bool {
    bytes.chunks(CHUNK).all(|chunk| {
        let has_room = poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLOUT)], PollTimeout::ZERO) == Ok(1);
        if has_room {
            let _nobody = out.write_all(chunk);
        }
        has_room
    })
}

fn told(lost: u64) -> String {
    format!("underlay: nobody read what was written here: {lost} messages are lost\n")
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read, pipe};

    use super::*;

    fn filled() -> (PipeReader, PipeWriter) {
        let (reader, mut writer) = pipe().unwrap();
        while write_all_if_room(&mut writer, &[b'.'; CHUNK]) {}
        (reader, writer)
    }

    #[test]
    fn what_finds_no_room_is_not_waited_for() {
        let (mut reader, mut writer) = filled();
        reader.read_exact(&mut [0; CHUNK]).unwrap();

        // A page of the two has room.
        assert!(!write_all_if_room(&mut writer, &[b'x'; 2 * CHUNK]));

        drop(writer);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        let (before, written) = rest.split_at(rest.len() - CHUNK);
        assert!(before.iter().all(|byte| *byte == b'.') && written.iter().all(|byte| *byte == b'x'));
    }
}
