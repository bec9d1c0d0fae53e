//! Files that lines are appended to: the log, and metrics.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// A file or FIFO that is appended to. Dropping it removes what it has made, if nothing was written: whoever is refused a start
/// finds no file that was not there before.
#[derive(Debug)]
pub(crate) struct AppendFile {
    file: File,
    /// Where it has made the file, if it has.
    made: Option<PathBuf>,
}

impl AppendFile {
    /// Opens the file at `path`, or makes it. A FIFO is never waited for: neither for a reader nor for room.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        // For reading too: a FIFO without a reader can be opened so.
        options.read(true).append(true).custom_flags(libc::O_NONBLOCK);
        match options.clone().create_new(true).open(path) {
            Ok(file) => Ok(Self { file, made: Some(path.to_owned()) }),
            // Or a link that leads to nothing yet.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(Self { file: options.create(true).open(path)?, made: None })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether it is still there, and empty.
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let (ours, theirs) = (self.file.metadata()?, fs::symlink_metadata(path)?);
        Ok(ours.len() == 0 && (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
    }
}

impl Write for &AppendFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.file).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for AppendFile {
    fn drop(&mut self) {
        if let Some(path) = &self.made
            && self.is_at(path).unwrap_or(false)
        {
            // An empty file that cannot be removed harms nobody.
            let _stays = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_was_made_and_not_written_to_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");

        drop(AppendFile::open(&path).unwrap());

        assert!(!path.exists());
    }

    #[test]
    fn what_was_there_before_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        File::create(&path).unwrap();

        drop(AppendFile::open(&path).unwrap());

        assert!(path.exists());
    }

    #[test]
    fn what_was_written_stays_and_is_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");

        for line in ["one\n", "two\n"] {
            (&AppendFile::open(&path).unwrap()).write_all(line.as_bytes()).unwrap();
        }

        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_file_that_another_has_put_in_its_place_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let file = AppendFile::open(&path).unwrap();
        fs::rename(&path, folder.path().join("log.1")).unwrap();
        File::create(&path).unwrap();

        drop(file);

        assert!(path.exists());
    }

    #[test]
    fn a_link_that_leads_to_nothing_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("log"), folder.path().join("target"));
        symlink(&target, &path).unwrap();

        (&AppendFile::open(&path).unwrap()).write_all(b"line\n").unwrap();

        assert_eq!(fs::read_to_string(target).unwrap(), "line\n");
    }
}
