//! `--config-file`: the whole configuration in one document, or everything that is wrong with it.
//!
//! A document that is right is read once. One that is not is read again, by somebody more patient: `diagnosis`.

mod diagnosis;
mod position;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use self::position::Position;
use super::{Configuration, Misplaced, VmConfig};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What is in it cannot be used.
    #[error("cannot use the configuration file:\n{}", listed(path, mistakes))]
    Wrong {
        /// Which.
        path: PathBuf,
        /// All that is wrong, in the order of its lines.
        mistakes: Vec<Mistake>,
    },
}

/// Something that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Its line, from 1.
    pub line: usize,
    /// Its column, from 1, in bytes.
    pub column: usize,
    /// What is wrong, with the field's path in front.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

fn listed(path: &Path, mistakes: &[Mistake]) -> String {
    let lines = mistakes.iter().map(|mistake| format!("{}:{mistake}", path.display()));
    lines.collect::<Vec<_>>().join("\n")
}

/// Reads the file at `path`.
///
/// # Errors
/// [`ConfigFileError`].
pub fn load(path: &Path) -> Result<Configuration, ConfigFileError> {
    let text =
        fs::read_to_string(path).map_err(|source| ConfigFileError::Read { path: path.to_owned(), source })?;
    read(&text).map_err(|mut mistakes| {
        mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        ConfigFileError::Wrong { path: path.to_owned(), mistakes }
    })
}

/// Reads a document.
fn read(text: &str) -> Result<Configuration, Vec<Mistake>> {
    let Ok(document) = serde_json::from_str::<VmConfig>(text) else {
        return Err(diagnosis::diagnose(text));
    };
    let needs_kernel = document.boot_source.is_none();
    let mut mistakes = match Configuration::of(document) {
        Ok(configuration) if !needs_kernel => return Ok(configuration),
        Ok(_) => Vec::new(),
        Err(misplaced) => misplaced.iter().map(|misplaced| located(text, misplaced)).collect(),
    };
    if needs_kernel {
        mistakes.push(no_kernel());
    }
    Err(mistakes)
}

fn no_kernel() -> Mistake {
    Mistake { line: 1, column: 1, message: "boot-source: is needed: the kernel to start".to_owned() }
}

/// Where the value is that was not taken, and why it was not.
fn located(text: &str, misplaced: &Misplaced) -> Mistake {
    let (section, index) = misplaced.section;
    let position = Position::of_document(text).field(section);
    let (position, element) = match index {
        Some(index) => (position.element(index), format!("[{index}]")),
        None => (position, String::new()),
    };
    let (line, column) = position.field(misplaced.refused.field).line_and_column();
    Mistake { line, column, message: format!("{section}{element}.{}", misplaced.refused) }
}

#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;
