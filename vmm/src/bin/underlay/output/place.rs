//! Which file a path stands for: through links, even dangling ones, and through the names of open descriptors.

use std::{
    ffi::OsString,
    fs::{self, Metadata},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Component, Path, PathBuf},
};

/// How many links one path may lead through, as for the kernel.
const LINKS_LIMIT: u32 = 40;

/// Why a path stands for nothing that can be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    /// The folder is missing.
    #[error("there is no folder {}; make it, or name another", .0.display())]
    NoFolder(PathBuf),
    /// The system refused.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// What a path stands for.
#[derive(Debug)]
pub(super) enum Place {
    /// `-`, `/dev/stdout` and the other names of descriptor 1.
    Stdout,
    /// A regular file, or none yet: its path without a link, and what is there now.
    File { path: PathBuf, existing: Option<Metadata> },
    /// A pipe, a device, or whatever another open descriptor leads to: there is nothing to be put in its place.
    Special { metadata: Metadata },
}

impl Place {
    /// Finds out what `path` stands for.
    pub(super) fn of(path: &Path) -> Result<Self, PlaceError> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let descriptors = fs::canonicalize("/proc/self/fd").ok();
        let mut path = path.to_owned();
        for _ in 0..LINKS_LIMIT {
            let (folder, name) = split(&path)?;
            if descriptors.as_ref() == Some(&folder) && name == "1" {
                return Ok(Self::Stdout);
            }
            path = folder.join(name);
            match fs::symlink_metadata(&path) {
                // The link of a descriptor is more than the path it shows: the file may be deleted, or a pipe.
                Ok(link) if link.is_symlink() && folder.starts_with("/proc") => {
                    let metadata = fs::metadata(&path)?;
                    return Ok(Self::Special { metadata });
                }
                Ok(link) if link.is_symlink() => path = folder.join(fs::read_link(&path)?),
                Ok(metadata) if metadata.is_dir() => {
                    return Err(io::Error::from(io::ErrorKind::IsADirectory).into());
                }
                Ok(metadata) if metadata.is_file() => {
                    let existing = Some(metadata);
                    return Ok(Self::File { path, existing });
                }
                Ok(metadata) => return Ok(Self::Special { metadata }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let existing = None;
                    return Ok(Self::File { path, existing });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::from_raw_os_error(libc::ELOOP).into())
    }

    /// Whether what is written to one would be lost to, or mixed with, what is written to the other. A device such as
    /// /dev/null takes both.
    pub(super) fn clashes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Stdout, Self::Stdout) => true,
            (Self::File { path: a, .. }, Self::File { path: b, .. }) if a == b => true,
            _ => match (self.metadata(), other.metadata()) {
                (Some(a), Some(b)) => is_same(a, b) && !a.file_type().is_char_device(),
                _ => false,
            },
        }
    }

    /// Whether it is the file that `metadata` describes.
    pub(super) fn is(&self, metadata: &Metadata) -> bool {
        self.metadata().is_some_and(|own| is_same(own, metadata))
    }

    const fn metadata(&self) -> Option<&Metadata> {
        match self {
            Self::Stdout => None,
            Self::File { existing, .. } => existing.as_ref(),
            Self::Special { metadata } => Some(metadata),
        }
    }
}

fn is_same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// The folder without a link, and the name in it.
fn split(path: &Path) -> Result<(PathBuf, OsString), PlaceError> {
    // `/`, `.` and `..` are folders.
    let Some(Component::Normal(name)) = path.components().next_back() else {
        return Err(io::Error::from(io::ErrorKind::IsADirectory).into());
    };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match folder.canonicalize() {
        Ok(folder) => Ok((folder, name.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(PlaceError::NoFolder(folder.to_owned())),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn file_of(path: &Path) -> PathBuf {
        match Place::of(path).unwrap() {
            Place::File { path, .. } => path,
            other => panic!("{} is {other:?}", path.display()),
        }
    }

    #[test]
    fn links_lead_to_the_file_even_where_it_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir(root.join("deep")).unwrap();
        symlink("deep/second", root.join("first")).unwrap();
        symlink("../target", root.join("deep/second")).unwrap();

        let dangling = file_of(&root.join("first"));
        fs::write(root.join("target"), "").unwrap();
        let existing = file_of(&root.join("first"));

        assert_eq!(dangling, root.join("target"));
        assert_eq!(existing, dangling);
    }

    #[test]
    fn a_loop_of_links_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("loop");
        symlink("loop", &path).unwrap();

        let error = Place::of(&path).unwrap_err();

        assert!(
            matches!(&error, PlaceError::System(error) if error.raw_os_error() == Some(libc::ELOOP)),
            "{error:?}"
        );
    }

    #[test]
    fn every_name_of_descriptor_1_is_stdout() {
        for name in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
            let place = Place::of(Path::new(name)).unwrap();

            assert!(matches!(place, Place::Stdout), "{name} is {place:?}");
        }
    }

    #[test]
    fn another_descriptor_is_written_in_place_whatever_it_leads_to() {
        use std::os::fd::AsRawFd;
        let file = tempfile::tempfile().unwrap();
        let path = format!("/dev/fd/{}", file.as_raw_fd());

        let place = Place::of(Path::new(&path)).unwrap();

        assert!(matches!(place, Place::Special { .. }), "{place:?}");
    }

    #[test]
    fn two_names_of_one_file_clash_and_devices_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("sub")).unwrap();
        fs::write(path("old"), "").unwrap();
        fs::hard_link(path("old"), path("hard")).unwrap();
        let place = |path: PathBuf| Place::of(&path).unwrap();

        assert!(place(path("new")).clashes(&place(path("sub/../new"))));
        assert!(place(path("old")).clashes(&place(path("hard"))));
        assert!(!place(path("old")).clashes(&place(path("new"))));
        assert!(!place("/dev/null".into()).clashes(&place("/dev/null".into())));
    }
}
