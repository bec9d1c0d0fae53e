//! Standard error, for threads that whoever does not read it must not hold up.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What found no room since something last did.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Writes `text`, which is whole lines and shorter than a page, if there is room for it now. What is lost is counted, and told
/// before what finds room next.
pub fn write_if_room(text: &[u8]) {
    let stderr = io::stderr();
    let mut room = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let has_room = poll(&mut room, PollTimeout::ZERO) == Ok(1);
    // A count that orders nothing.
    if !has_room {
        LOST.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let mut stderr = stderr.lock();
    // There is nobody else to tell.
    let _lost = match LOST.swap(0, Ordering::Relaxed) {
        0 => stderr.write_all(text),
        lost => stderr.write_all(&[told(lost).as_bytes(), text].concat()),
    };
}

fn told(lost: u64) -> String {
    format!("underlay: nobody read what was written here: {lost} messages are lost\n")
}
