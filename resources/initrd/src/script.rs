//! The tests by name, and the command line that names them.

use core::time::Duration;

use crate::console::say;
use crate::outcome::Failure;
use crate::{disk, machine, memory, net, process, random};

/// Arguments of one test, in order.
pub(crate) struct Arguments<'a>(core::str::Split<'a, char>);

impl<'a> Arguments<'a> {
    /// The next one, if there is one.
    pub(crate) fn text(&mut self) -> Option<&'a str> {
        self.0.next()
    }

    /// The next one as a number, or `default`.
    pub(crate) fn number(&mut self, default: u64) -> Result<u64, Failure> {
        self.text().map_or(Ok(default), |text| text.parse().map_err(|_| Failure::Usage("not a number")))
    }

    /// The next one as a count of MiB, at least 1.
    pub(crate) fn mib(&mut self) -> Result<usize, Failure> {
        match self.number(64)? {
            0 => Err(Failure::Usage("0 MiB")),
            mib => usize::try_from(mib).map_err(|_| Failure::Usage("not a number")),
        }
    }

    /// The next one as seconds, or `default`.
    pub(crate) fn seconds(&mut self, default: u64) -> Result<Duration, Failure> {
        self.number(default).map(Duration::from_secs)
    }
}

/// Runs what the command line names; without a word there it is `boot`.
pub(crate) fn run() -> Result<(), Failure> {
    let mut text = [0; 4096];
    let line = machine::read_text(c"/proc/cmdline", &mut text).map_err(Failure::refused("/proc/cmdline"))?;
    let tests = line.split(' ').find_map(|word| word.strip_prefix("underlay.test=")).unwrap_or("boot");
    for test in tests.split(',') {
        say!("test {test}");
        let started = machine::now();
        run_one(test)?;
        say!("passed {test} ms={}", (machine::now().saturating_sub(started)).as_millis());
    }
    Ok(())
}

fn run_one(test: &str) -> Result<(), Failure> {
    let mut parts = test.split(':');
    let name = parts.next().unwrap_or_default();
    let arguments = &mut Arguments(parts);
    match name {
        "boot" => Ok(()),
        "exit" => exit(arguments),
        "panic" => process::end(0),
        "touch" => memory::touch(arguments),
        "fill" => memory::fill(arguments),
        "balloon" => memory::hold(arguments, 10),
        "forever" => memory::hold(arguments, u64::MAX),
        "release" => memory::release(arguments),
        "thp" => memory::thp(arguments),
        "disk" => disk::both(arguments),
        "disk-read" => disk::read(arguments),
        "disk-changes" => disk::changes(arguments),
        "disk-write" => disk::write(arguments),
        "disk-throughput" => disk::throughput(arguments),
        "disk-discard" => disk::discard(arguments),
        "disk-readonly" => disk::read_only(arguments),
        "rng" => random::rng(),
        "net" => net::serve(arguments),
        "shell" => process::shell(),
        _ => Err(Failure::Usage("no such test")),
    }
}

fn exit(arguments: &mut Arguments) -> Result<(), Failure> {
    let status = u8::try_from(arguments.number(0)?).map_err(|_| Failure::Usage("a status is at most 255"))?;
    if status == 0 { Ok(()) } else { Err(Failure::Asked(status)) }
}
