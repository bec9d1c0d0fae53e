//! The socket's place in the file system: taken over from those who are gone, never from those who are there.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How long others may have the folder locked. Those who take over a socket have it for less than a millisecond each.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long until the lock is tried again.
const PAUSE: Duration = Duration::from_millis(5);

/// A socket that is listened on. Dropping it removes it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: what is at the path by then may be somebody else's.
    identity: (u64, u64),
}

/// Why there is no socket at a path.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error("{} is the socket of a process that is running: stop it, or choose another path", .0.display())]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{} exists and is not a socket: remove it, or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// It could not be found out whether another process listens there.
    #[error("{} exists, and whether its socket is in use cannot be found out", path.display())]
    Unknown {
        /// Where.
        path: PathBuf,
        /// What connecting to it said.
        #[source]
        source: io::Error,
    },
    /// Somebody keeps the folder locked.
    #[error("another process has the folder {} locked: end it (see lslocks), or choose another path", .0.display())]
    FolderLocked(PathBuf),
    /// The system refused.
    #[error("cannot make the socket {}", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Socket {
    /// Listens at `path`.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let refused = |source| BindError::Refused { path: path.to_owned(), source };
        // Of two that find a dead socket here, the second must not remove the first one's new one. Held until the
        // socket is listened on; the kernel lets go of it with the process.
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let _locked = lock(folder, refused)?;
        clear(path)?;
        let listener = UnixListener::bind(path).map_err(refused)?;
        let identity = fs::symlink_metadata(path).map(|found| (found.dev(), found.ino())).map_err(refused)?;
        let socket = Self { listener, path: path.to_owned(), identity };
        socket.listener.set_nonblocking(true).map_err(refused)?;
        Ok(socket)
    }

    /// Clients come by it, without waiting.
    pub(super) const fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

/// Locks `folder`, unless somebody keeps it locked: everybody who may read it can.
fn lock(folder: &Path, refused: impl Fn(io::Error) -> BindError) -> Result<File, BindError> {
    let file = File::open(folder).map_err(&refused)?;
    let end = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < end => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => return Err(BindError::FolderLocked(folder.to_owned())),
            Err(TryLockError::Error(error)) => return Err(refused(error)),
        }
    }
}

/// Removes a socket that nobody listens on.
fn clear(path: &Path) -> Result<(), BindError> {
    let refused = |source| BindError::Refused { path: path.to_owned(), source };
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(refused)?,
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            log::info!("{} was left behind by a process that is gone: taken over", path.display());
            fs::remove_file(path).map_err(refused)
        }
        Err(source) => Err(BindError::Unknown { path: path.to_owned(), source }),
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let is_ours = |found: fs::Metadata| (found.dev(), found.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            let removed = fs::remove_file(&self.path);
            removed.unwrap_or_else(|error| log::warn!("cannot remove {}: {error}", self.path.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, sync::mpsc};

    use super::*;

    #[test]
    fn a_socket_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api");

        let socket = Socket::bind(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);

        assert!(!path.exists());
    }

    #[test]
    fn a_socket_in_use_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api");
        let first = Socket::bind(&path).unwrap();

        assert!(matches!(Socket::bind(&path), Err(BindError::InUse(_))));

        assert!(UnixStream::connect(&path).is_ok());
        drop(first);
    }

    #[test]
    fn a_dead_socket_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());

        let _socket = Socket::bind(&path).unwrap();

        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "precious").unwrap();
        let link = folder.path().join("link");
        symlink("nowhere", &link).unwrap();

        for path in [&file, &link, &folder.path().to_owned()] {
            assert!(matches!(Socket::bind(path), Err(BindError::NotASocket(_))), "{path:?}");
        }
        assert_eq!(fs::read(&file).unwrap(), b"precious");
    }

    #[test]
    fn a_path_that_cannot_be_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("a".repeat(120));
        let nowhere = folder.path().join("missing/api");
        for path in [long, nowhere] {
            assert!(matches!(Socket::bind(&path), Err(BindError::Refused { .. })), "{path:?}");
        }
    }

    #[test]
    fn a_folder_that_stays_locked_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api");
        let stranger = File::open(folder.path()).unwrap();
        stranger.lock().unwrap();
        let (told, bound) = mpsc::channel();

        thread::spawn({
            let path = path.clone();
            move || told.send(Socket::bind(&path).map(drop))
        });

        let result = bound.recv_timeout(Duration::from_mins(1)).expect("it does not wait without end");
        assert!(matches!(&result, Err(BindError::FolderLocked(at)) if at == folder.path()), "{result:?}");
        drop(stranger);
        assert!(Socket::bind(&path).is_ok());
    }

    #[test]
    fn another_ones_socket_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api");
        let first = Socket::bind(&path).unwrap();
        fs::rename(&path, folder.path().join("moved")).unwrap();
        let _second = Socket::bind(&path).unwrap();

        drop(first);

        assert!(UnixStream::connect(&path).is_ok());
    }
}
