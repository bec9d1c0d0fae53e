//! Reading what the kernel says about itself in /sys and /proc.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// A file of the kernel that could not be read, or did not hold what it should.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub struct HostFileError {
    /// The file.
    pub path: PathBuf,
    /// Why not; [`io::ErrorKind::InvalidData`] if its content was not understood.
    #[source]
    pub source: io::Error,
}

impl HostFileError {
    /// Whether the file does not exist.
    pub(crate) fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// The tree that holds `sys` and `proc`: `/`, or a made-up one in tests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostFiles<'a> {
    root: &'a Path,
}

impl HostFiles<'_> {
    /// The running kernel's files.
    pub(crate) fn system() -> HostFiles<'static> {
        HostFiles { root: Path::new("/") }
    }

    /// The files under `root`.
    #[cfg(test)]
    pub(crate) fn under(root: &Path) -> HostFiles<'_> {
        HostFiles { root }
    }

    /// The content of the file at `path`, given relative to the root.
    pub(crate) fn text(self, path: impl AsRef<Path>) -> Result<String, HostFileError> {
        let path = self.root.join(path);
        fs::read_to_string(&path).map_err(|source| HostFileError { path, source })
    }

    /// The decimal number that the file at `path` consists of.
    pub(crate) fn number(self, path: impl AsRef<Path>) -> Result<u64, HostFileError> {
        let text = self.text(path.as_ref())?;
        self.understood(path, text.trim().parse())
    }

    /// The word in square brackets in the file at `path`, which is how the kernel shows a choice.
    pub(crate) fn choice(self, path: impl AsRef<Path>) -> Result<String, HostFileError> {
        let text = self.text(path.as_ref())?;
        let chosen = text
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'))
            .map(|(chosen, _)| chosen.to_owned());
        self.understood(path, chosen.ok_or("nothing is chosen"))
    }

    /// The set of numbers in the file at `path`, written like `0-3,8`.
    pub(crate) fn list(self, path: impl AsRef<Path>) -> Result<Vec<u32>, HostFileError> {
        let text = self.text(path.as_ref())?;
        self.understood(path, parse_list(text.trim()).ok_or("not a list of numbers"))
    }

    /// The bytes of the line `name` in /proc/meminfo, which gives them in kB.
    pub(crate) fn meminfo(self, name: &str) -> Result<u64, HostFileError> {
        let path = "proc/meminfo";
        let text = self.text(path)?;
        let kilobytes = text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key == name).then(|| value.trim().trim_end_matches(" kB").parse::<u64>().ok())?
        });
        self.understood(path, kilobytes.map(|n| n << 10).ok_or("the line is missing"))
    }

    /// What was found in the file at `path`, or an error that says that it was not understood.
    fn understood<T, E>(self, path: impl AsRef<Path>, found: Result<T, E>) -> Result<T, HostFileError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        found.map_err(|error| HostFileError {
            path: self.root.join(path),
            source: io::Error::new(io::ErrorKind::InvalidData, error),
        })
    }
}

fn parse_list(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(first.parse::<u32>().ok()?..=last.parse().ok()?);
    }
    Some(numbers)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A made-up tree of kernel files.
    pub(crate) struct FakeHost {
        root: tempfile::TempDir,
    }

    impl FakeHost {
        #[track_caller]
        pub(crate) fn with(files: &[(&str, &str)]) -> Self {
            let host = Self { root: tempfile::tempdir().unwrap() };
            for (path, text) in files {
                host.write(path, text);
            }
            host
        }

        #[track_caller]
        pub(crate) fn write(&self, path: &str, text: &str) {
            let path = self.root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        pub(crate) fn files(&self) -> HostFiles<'_> {
            HostFiles::under(self.root.path())
        }
    }

    #[test]
    fn what_the_kernel_writes_is_understood() {
        let host = FakeHost::with(&[
            ("n", "12\n"),
            ("choice", "always [madvise] never\n"),
            ("list", "0-2,5\n"),
            ("none", "\n"),
            ("proc/meminfo", "MemTotal:       24000 kB\nMemFree:   1 kB\n"),
        ]);
        let files = host.files();

        assert_eq!(files.number("n").unwrap(), 12);
        assert_eq!(files.choice("choice").unwrap(), "madvise");
        assert_eq!(files.list("list").unwrap(), [0, 1, 2, 5]);
        assert_eq!(files.list("none").unwrap(), [0_u32; 0]);
        assert_eq!(files.meminfo("MemTotal").unwrap(), 24000 << 10);
    }

    #[test]
    fn what_is_not_understood_is_an_error_that_names_the_file() {
        let host = FakeHost::with(&[("odd", "x-y"), ("proc/meminfo", "MemFree: 1 kB")]);
        let files = host.files();

        let errors = [
            files.number("odd").unwrap_err(),
            files.choice("odd").unwrap_err(),
            files.list("odd").unwrap_err(),
        ];

        for error in &errors {
            assert!(error.to_string().ends_with("/odd"), "{error}");
            assert_eq!(error.source.kind(), io::ErrorKind::InvalidData);
        }
        assert!(!files.meminfo("MemTotal").unwrap_err().is_missing());
        assert!(files.text("absent").unwrap_err().is_missing());
    }
}
