//! Files that lines are appended to: the log, and metrics.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, eaccess};

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

    /// Whether the file at `path` can be opened or made, as far as can be told without making it: others may write to it
    /// as soon as it is there. Nor is a FIFO opened: whoever reads it would read its end when it is closed.
    pub(crate) fn check(path: &Path) -> io::Result<()> {
        match fs::metadata(path) {
            Ok(found) if found.is_file() || found.is_dir() => {
                OpenOptions::new().read(true).append(true).open(path).map(drop)
            }
            Ok(_) => Ok(()),
            // It may be made where the link leads to.
            Err(_) if path.is_symlink() => Ok(()),
            Err(error) => match path.parent() {
                Some(folder) if error.kind() == io::ErrorKind::NotFound => {
                    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
                    Ok(eaccess(folder, AccessFlags::W_OK | AccessFlags::X_OK)?)
                }
                _ => Err(error),
            },
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
    use std::os::{fd::AsFd, unix::fs::symlink};

    use nix::{
        poll::{PollFd, PollFlags, PollTimeout, poll},
        sys::stat::Mode,
        unistd::mkfifo,
    };

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
    fn what_can_be_made_is_not_made_to_find_out() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("log"), folder.path().join("link"));
        symlink(&path, &link).unwrap();

        for path in [&path, &link, Path::new("a-log-that-is-not-there")] {
            AppendFile::check(path).unwrap();
            assert!(!path.exists(), "{path:?}");
        }

        File::create(&path).unwrap();
        AppendFile::check(&path).unwrap();
        for wrong in [folder.path(), &path.join("log"), Path::new("/nowhere/log"), Path::new("")] {
            assert!(AppendFile::check(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_check_does_not_end_what_a_reader_waits_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();

        AppendFile::check(&path).unwrap();

        // A reader hears of a hangup once a writer has come and gone.
        let mut heard = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut heard, PollTimeout::ZERO), Ok(0));
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
