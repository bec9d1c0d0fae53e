//! Reading a report back.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;

use super::{Report, SCHEMA};

/// Why a report could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no such file.
    #[error("there is no {path}; write it with `underlay measure --json {path}`", path = .path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is there but cannot be read as text.
    #[error("cannot read {path}; give a file that `underlay measure --json FILE` wrote", path = .path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What the file holds is not JSON, or breaks off.
    #[error("{path} is not JSON; give a file that `underlay measure --json FILE` wrote", path = .path.display())]
    NotJson {
        /// Which file.
        path: PathBuf,
        /// Where it stops being JSON.
        source: serde_json::Error,
    },
    /// The JSON is no report.
    #[error(
        "{path} is JSON but no report; give a file that `underlay measure --json FILE` wrote",
        path = .path.display()
    )]
    NotAReport {
        /// Which file.
        path: PathBuf,
        /// What it lacks.
        source: serde_json::Error,
    },
    /// The report was written by a program that is newer than this one.
    #[error(
        "{path} has schema {schema}, but this underlay reads none after {SCHEMA}; compare it with the underlay \
         that wrote it",
        path = .path.display()
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// The schema that it has.
        schema: u64,
    },
}

/// All that every schema has in common.
#[derive(Deserialize)]
struct Versioned {
    schema: u64,
}

/// Reads the report that `underlay measure --json` wrote to `path`.
///
/// # Errors
/// [`LoadError`]; the file is read whole, so that one that is being written is [`LoadError::NotJson`].
pub fn load(path: impl AsRef<Path>) -> Result<Report, LoadError> {
    let path = || path.as_ref().to_owned();
    let text = fs::read_to_string(path()).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => LoadError::Missing { path: path() },
        _ => LoadError::Unreadable { path: path(), source },
    })?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|source| LoadError::NotJson { path: path(), source })?;
    let not_a_report = |source| LoadError::NotAReport { path: path(), source };

    // The version first: a newer report may lack what this one requires.
    let Versioned { schema } = Versioned::deserialize(&json).map_err(not_a_report)?;
    if schema > SCHEMA.into() {
        return Err(LoadError::Newer { path: path(), schema });
    }
    // Not from the value: from the text, an error says in which line.
    serde_json::from_str(&text).map_err(not_a_report)
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::super::fixture;
    use super::*;

    fn loaded(text: &[u8]) -> Result<Report, LoadError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        load(file.path())
    }

    #[test]
    fn a_report_reads_back() {
        let report = fixture::report();

        let read = loaded(&serde_json::to_vec_pretty(&report).unwrap()).unwrap();

        assert_eq!(read, report);
    }

    #[test]
    fn keys_of_a_later_version_are_passed_over() {
        let mut json = serde_json::to_value(fixture::report()).unwrap();
        json["runs"][0]["colour"] = "blue".into();

        let read = loaded(json.to_string().as_bytes()).unwrap();

        assert_eq!(read, fixture::report());
    }

    #[test]
    fn a_missing_file_names_the_command_that_writes_it() {
        let error = load("/nonexistent/a.json").unwrap_err();

        assert_eq!(
            error.to_string(),
            "there is no /nonexistent/a.json; write it with `underlay measure --json /nonexistent/a.json`"
        );
    }

    #[test]
    fn a_directory_is_unreadable() {
        assert!(matches!(load("/"), Err(LoadError::Unreadable { .. })));
    }

    #[test]
    fn bytes_that_are_no_text_are_unreadable() {
        assert!(matches!(loaded(b"\xff\xfe"), Err(LoadError::Unreadable { .. })));
    }

    #[test]
    fn a_broken_off_report_is_not_json() {
        let text = serde_json::to_vec(&fixture::report()).unwrap();

        assert!(matches!(loaded(&text[..text.len() / 2]), Err(LoadError::NotJson { .. })));
        assert!(matches!(loaded(b""), Err(LoadError::NotJson { .. })));
    }

    #[test]
    fn other_json_is_not_a_report_and_the_cause_says_what_is_missing() {
        let without_schema = loaded(b"[]").unwrap_err();
        let without_host = loaded(b"{\"schema\": 1}").unwrap_err();

        assert!(matches!(without_schema, LoadError::NotAReport { .. }));
        assert!(without_host.source().unwrap().to_string().contains("missing field `host`"));
    }

    #[test]
    fn a_newer_schema_is_told_apart_whatever_else_changed() {
        let error = loaded(b"{\"schema\": 2, \"machines\": []}").unwrap_err();

        assert!(matches!(error, LoadError::Newer { schema: 2, .. }));
        assert!(error.to_string().contains("has schema 2, but this underlay reads none after 1"));
    }
}
