//! The log: on stderr until it is told where else, and changed while the program runs. It waits for nobody who reads it.
//!
//! Lines on stderr are for people. Those of a file are Firecracker's: the time, and in brackets the microVM, the thread,
//! and the level and the origin if they are asked for.

use std::{
    io::{self, Write},
    sync::{PoisonError, RwLock},
    thread,
    time::SystemTime,
};

use env_logger::{Builder, Target, fmt::Formatter};
use log::{LevelFilter, Record};

use crate::{api::schema::Logger, append::AppendFile, stderr};

/// How lines look and where they go. A leaf: nothing is locked while it is held.
static SETTINGS: RwLock<Settings> = RwLock::new(Settings {
    file: None,
    instance: String::new(),
    show_level: false,
    show_origin: false,
    module: None,
});

struct Settings {
    file: Option<AppendFile>,
    instance: String,
    show_level: bool,
    show_origin: bool,
    module: Option<String>,
}

/// Sends the log to stderr, from `level` up.
pub fn init(level: LevelFilter) {
    Builder::new()
        .filter_level(LevelFilter::Trace)
        .format(write_line)
        .target(Target::Pipe(Box::new(Destination)))
        .init();
    log::set_max_level(level);
}

/// What lines in a file call the microVM.
pub fn set_instance(name: &str) {
    name.clone_into(&mut SETTINGS.write().unwrap_or_else(PoisonError::into_inner).instance);
}

/// Changes what `logger` names, and leaves the rest as it is. A FIFO is not waited for: what it has no room for is lost.
///
/// # Errors
/// The file cannot be opened or made; nothing is changed then.
pub fn configure(logger: &Logger) -> io::Result<()> {
    let file = logger.log_path.as_deref().map(AppendFile::open).transpose()?;
    let mut settings = SETTINGS.write().unwrap_or_else(PoisonError::into_inner);
    if file.is_some() {
        settings.file = file;
    }
    settings.show_level = logger.show_level.unwrap_or(settings.show_level);
    settings.show_origin = logger.show_log_origin.unwrap_or(settings.show_origin);
    if logger.module.is_some() {
        settings.module.clone_from(&logger.module);
    }
    if let Some(level) = logger.level {
        log::set_max_level(level.filter());
    }
    Ok(())
}

/// Sends the log to stderr again. A file that was made for it and has no line yet is removed.
pub fn close() {
    let file = SETTINGS.write().unwrap_or_else(PoisonError::into_inner).file.take();
    drop(file);
}

fn write_line(line: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let settings = SETTINGS.read().unwrap_or_else(PoisonError::into_inner);
    let target = record.target();
    if settings.module.as_deref().is_some_and(|module| !is_in(target, module)) {
        return Ok(());
    }
    if settings.file.is_none() {
        return writeln!(line, "[{:5} {target}] {}", record.level(), record.args());
    }
    let now = humantime::format_rfc3339_nanos(SystemTime::now());
    write!(line, "{now} [{}:{}", settings.instance, thread::current().name().unwrap_or("?"))?;
    if settings.show_level {
        write!(line, ":{}", record.level())?;
    }
    if settings.show_origin {
        write!(line, ":{}:{}", record.file().unwrap_or("?"), record.line().unwrap_or(0))?;
    }
    writeln!(line, "] {}", record.args())
}

/// Whether `target` is `module` or one of its submodules.
fn is_in(target: &str, module: &str) -> bool {
    target.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The file if there is one, else stderr.
struct Destination;

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let settings = SETTINGS.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut file) = settings.file.as_ref() {
            return file.write(bytes);
        }
        stderr::write_if_room(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_has_its_submodules() {
        assert!(is_in("vmm::api", "vmm::api"));
        assert!(is_in("vmm::api::server", "vmm::api"));
        assert!(!is_in("vmm::apiary", "vmm::api"));
        assert!(!is_in("vmm", "vmm::api"));
    }
}
