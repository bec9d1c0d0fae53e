//! Lines for the console, one write each, so that the kernel's own do not end up inside.
#![expect(unsafe_code, reason = "standard output is a number until somebody says that it is open")]

use core::fmt::{self, Write};

use rustix::stdio;

/// Prints one line that starts with `init: `.
macro_rules! say {
    ($($part:tt)*) => { $crate::console::line(format_args!($($part)*)) };
}
pub(crate) use say;

/// Longest line; what is longer is cut.
const LINE: usize = 256;

struct Line {
    bytes: [u8; LINE],
    used: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // One byte stays free for the line's end.
        for (slot, byte) in self.bytes[self.used..LINE - 1].iter_mut().zip(text.bytes()) {
            *slot = byte;
            self.used += 1;
        }
        Ok(())
    }
}

/// What [`say`] calls.
pub(crate) fn line(text: fmt::Arguments) {
    let mut line = Line { bytes: [0; LINE], used: 0 };
    // Writing to a Line cannot fail.
    let _ = write!(line, "init: {text}");
    line.bytes[line.used] = b'\n';
    let mut rest = &line.bytes[..=line.used];
    // SAFETY: Linux starts process 1 with the console as its standard output, and nothing here closes it.
    let console = unsafe { stdio::stdout() };
    while let Ok(done @ 1..) = rustix::io::write(console, rest) {
        rest = &rest[done..];
    }
}
