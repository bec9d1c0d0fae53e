//! A file that takes another's place when it is whole.

use std::{
    fs::{self, File, Metadata, OpenOptions, Permissions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{AT_FDCWD, AtFlags},
    unistd::linkat,
};
use tempfile::{Builder, TempPath};

/// What a new file's name begins with while it is not in place.
const PREFIX: &str = ".underlay-";
/// The mode of a file that replaces none, of which the umask takes its part.
const NEW_MODE: u32 = 0o666;

/// A new file in the folder of the one that it is to replace. It has no name there until it does, where the file
/// system can do that: whatever ends the process then leaves nothing behind.
#[derive(Debug)]
pub(super) struct Replacement {
    file: File,
    /// The name that it has where it could not be made without one. It goes away with this.
    name: Option<TempPath>,
    path: PathBuf,
}

impl Replacement {
    /// A file that is to stand at `path`, with mode and owner of the `existing` one.
    pub(super) fn new(path: PathBuf, existing: Option<&Metadata>) -> io::Result<Self> {
        if existing.is_some() {
            // What may not be written must not be replaced either.
            drop(OpenOptions::new().append(true).open(&path)?);
        }
        // Not every file system has files without a name, and not every kernel says so in the same way.
        let (file, name) =
            unnamed(folder(&path)).map_or_else(|_| named(folder(&path)), |file| Ok((file, None)))?;
        if let Some(existing) = existing {
            // Only root may give a file away; without that it is the user's own.
            let _kept = fchown(&file, Some(existing.uid()), Some(existing.gid()));
            file.set_permissions(Permissions::from_mode(existing.mode() & 0o7777))?;
        }
        Ok(Self { file, name, path })
    }

    /// What to write to.
    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    /// Puts it in its place, all at once.
    pub(super) fn persist(self) -> io::Result<()> {
        let name = match self.name {
            Some(name) => name,
            // A link cannot replace a file; a rename can.
            None => Builder::new()
                .prefix(PREFIX)
                .make_in(folder(&self.path), |name| give_name(&self.file, name))?
                .into_temp_path(),
        };
        name.persist(&self.path).map_err(|error| error.error)
    }
}

/// The folder of a file whose path is absolute.
fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

fn unnamed(folder: &Path) -> io::Result<File> {
    // It gets its name through /proc: better found missing now than at the end.
    fs::metadata("/proc/self/fd")?;
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(NEW_MODE).open(folder)
}

fn named(folder: &Path) -> io::Result<(File, Option<TempPath>)> {
    let (file, name) = Builder::new()
        .prefix(PREFIX)
        .permissions(Permissions::from_mode(NEW_MODE))
        .tempfile_in(folder)?
        .into_parts();
    Ok((file, Some(name)))
}

fn give_name(file: &File, name: &Path) -> io::Result<()> {
    let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    let follow = AtFlags::AT_SYMLINK_FOLLOW;
    Ok(linkat(AT_FDCWD, descriptor.as_str(), AT_FDCWD, name, follow)?)
}
