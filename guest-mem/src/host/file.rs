//! Files that guest RAM starts out as a copy of.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::ByteSize;

/// Why a file cannot back guest RAM.
#[derive(Debug, thiserror::Error)]
pub enum BackingFileError {
    /// There is no such file.
    #[error("the backing file {} does not exist", .path.display())]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
    /// The path names a directory.
    #[error("the backing file {} is a directory; give a regular file", .path.display())]
    Directory {
        /// The path as given.
        path: PathBuf,
    },
    /// The path names a FIFO, a device or a socket.
    #[error("the backing file {} is a {kind}; give a regular file", .path.display())]
    NotRegular {
        /// The path as given.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The file lies on hugetlbfs, whose pages have another size than a file's.
    #[error(
        "the backing file {} lies on hugetlbfs; use a file elsewhere, or shared_hugetlb_2mb or _1gb",
        .path.display()
    )]
    Hugetlbfs {
        /// The path as given.
        path: PathBuf,
    },
    /// The file has fewer bytes than the RAM.
    #[error(
        "the backing file {} has {len} bytes, {size} of RAM needs {}; make it larger: truncate -s {size} {}",
        .path.display(), .size.bytes(), .path.display()
    )]
    TooShort {
        /// The path as given.
        path: PathBuf,
        /// The file's length in bytes.
        len: u64,
        /// The RAM's size.
        size: ByteSize,
    },
    /// The file cannot be opened or asked about.
    #[error("cannot open the backing file {}", .path.display())]
    Open {
        /// The path as given.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Opens the regular file at `path` for reading; it has at least `size` bytes.
pub(crate) fn open_regular(path: &Path, size: ByteSize) -> Result<File, BackingFileError> {
    let path_of_error = || path.to_owned();
    let open = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => BackingFileError::Missing { path: path_of_error() },
        _ => BackingFileError::Open { path: path_of_error(), source },
    };
    // Without O_NONBLOCK, opening a FIFO that nobody writes to would wait for ever.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(open)?;
    let metadata = file.metadata().map_err(open)?;

    let kind = metadata.file_type();
    if kind.is_dir() {
        return Err(BackingFileError::Directory { path: path_of_error() });
    }
    if !kind.is_file() {
        let kind = match kind {
            kind if kind.is_fifo() => "FIFO",
            kind if kind.is_char_device() => "character device",
            kind if kind.is_block_device() => "block device",
            _ => "special file",
        };
        return Err(BackingFileError::NotRegular { path: path_of_error(), kind });
    }
    if is_on_hugetlbfs(&file).map_err(open)? {
        return Err(BackingFileError::Hugetlbfs { path: path_of_error() });
    }
    if metadata.len() < size.bytes() {
        return Err(BackingFileError::TooShort { path: path_of_error(), len: metadata.len(), size });
    }
    Ok(file)
}

fn is_on_hugetlbfs(file: &File) -> io::Result<bool> {
    let mut statfs = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the kernel writes one `statfs` through the pointer, which has room for it.
    super::checked(unsafe { libc::fstatfs(file.as_raw_fd(), statfs.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so the kernel filled the structure in.
    let statfs = unsafe { statfs.assume_init() };
    Ok(statfs.f_type == libc::HUGETLBFS_MAGIC)
}
