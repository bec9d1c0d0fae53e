//! Who walks through guest memory in order, and how far ahead of them to map.
//!
//! A fault right behind what an earlier one mapped is taken for the same stream, and gets twice the window, up to a
//! limit; any other fault starts a stream with the smallest window. So sequential access soon pays one fault for a whole
//! 2 MiB range, and access in no order never gets more than it asked for. This is how Linux reads files ahead.

use std::ops::Range;

use mmu_notifier::sync::{Mutex, lock};

use crate::Gfn;

/// Streams that are remembered at a time: more vCPUs than this walk in order at one time only with small windows.
const STREAMS: usize = 8;

/// The latest streams of one address space.
#[derive(Debug)]
pub(super) struct Streams {
    /// A leaf.
    streams: Mutex<[Stream; STREAMS]>,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    /// The page behind its last window.
    next: Gfn,
    /// How large that was meant to be, in units of its caller's.
    window: u64,
}

impl Streams {
    pub(super) fn new() -> Self {
        // No guest page has the highest number there is.
        let none = Stream { next: Gfn::new(u64::MAX), window: 0 };
        Self { streams: Mutex::new([none; STREAMS]) }
    }

    /// The window for a fault at `gfn`, at least `least` and at most `most`; `None` if it continues no stream.
    pub(super) fn continued(&self, gfn: Gfn, least: u64, most: u64) -> Option<u64> {
        let streams = lock(&self.streams);
        let stream = streams.iter().find(|stream| stream.next == gfn)?;
        Some((stream.window * 2).clamp(least, most.max(least)))
    }

    /// A fault at `gfn` was given the window `window`, and mapped `mapped` of it.
    pub(super) fn advance(&self, gfn: Gfn, window: u64, mapped: &Range<Gfn>) {
        let mut streams = lock(&self.streams);
        // Its own place, or that of the stream that has not been heard of for longest.
        let at = streams.iter().position(|stream| stream.next == gfn).unwrap_or(STREAMS - 1);
        streams[..=at].rotate_right(1);
        streams[0] = Stream { next: mapped.end, window };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn fault(streams: &Streams, gfn: u64) -> u64 {
        let gfn = Gfn::new(gfn);
        let window = streams.continued(gfn, 16, 512).unwrap_or(16);
        streams.advance(gfn, window, &(gfn..gfn.plus(window)));
        window
    }

    #[test]
    fn a_window_doubles_as_long_as_faults_come_in_order() {
        let streams = Streams::new();
        let mut gfn = 4096;
        let windows: Vec<_> = (0..7)
            .map(|_| {
                let window = fault(&streams, gfn);
                gfn += window;
                window
            })
            .collect();

        assert_eq!(windows, [16, 32, 64, 128, 256, 512, 512]);
        assert_eq!(fault(&streams, gfn + 1), 16);
    }

    #[test]
    fn streams_do_not_disturb_each_other_until_there_are_too_many() {
        let streams = Streams::new();
        let starts: Vec<u64> = (0..STREAMS as u64).map(|stream| stream << 20).collect();
        for &start in &starts {
            assert_eq!(fault(&streams, start), 16);
        }
        for &start in &starts {
            assert_eq!(fault(&streams, start + 16), 32);
        }

        assert_eq!(fault(&streams, 99 << 20), 16);

        assert_eq!(fault(&streams, starts[0] + 48), 16, "the oldest made room");
        assert_eq!(fault(&streams, starts[7] + 48), 64);
    }
}
