//! `/logger`.

use std::{path::PathBuf, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};

use super::{Refused, check_appendable};

/// The body of PUT /logger. What is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logger {
    /// The file or FIFO that the log is appended to; stderr until one is given.
    pub log_path: Option<PathBuf>,
    /// The least that is logged.
    pub level: Option<Level>,
    /// Whether each line has its level.
    pub show_level: Option<bool>,
    /// Whether each line has the file and the line that it comes from.
    pub show_log_origin: Option<bool>,
    /// The module whose lines are logged; those of its submodules are too.
    pub module: Option<String>,
}

impl Logger {
    pub(crate) fn check(&self) -> Result<(), Refused> {
        self.log_path.as_deref().map_or(Ok(()), |path| check_appendable("log_path", path))
    }
}

/// The least that is logged; case does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Level {
    /// Nothing is.
    Off,
    /// What failed.
    Error,
    /// What may be wrong.
    Warning,
    /// What happens.
    Info,
    /// How it happens.
    Debug,
    /// All of it.
    Trace,
}

impl Level {
    /// The names by which levels are asked for, `warn` being another word for `warning`.
    const NAMES: [(&'static str, Self); 7] = [
        ("off", Self::Off),
        ("error", Self::Error),
        ("warning", Self::Warning),
        ("warn", Self::Warning),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];

    /// As the `log` crate has it.
    #[must_use]
    pub const fn filter(self) -> log::LevelFilter {
        match self {
            Self::Off => log::LevelFilter::Off,
            Self::Error => log::LevelFilter::Error,
            Self::Warning => log::LevelFilter::Warn,
            Self::Info => log::LevelFilter::Info,
            Self::Debug => log::LevelFilter::Debug,
            Self::Trace => log::LevelFilter::Trace,
        }
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        found
            .map(|&(_, level)| level)
            .ok_or_else(|| format!("unknown level {text:?}: use Off, Error, Warning, Info, Debug or Trace"))
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
