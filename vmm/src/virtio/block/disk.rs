//! The host's side of a disk: a file or a block device, opened, locked, and as large as the guest sees it.

use std::{
    fs::{File, Metadata, OpenOptions, TryLockError},
    io::{self, Seek, SeekFrom},
    os::{
        fd::AsFd,
        unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::fcntl::{FallocateFlags, fallocate};

use super::{
    super::buffers::{ReadBuffers, WriteBuffers},
    SECTOR,
    direct::Direct,
};
use crate::memory::Memory;

/// What is written where the file system cannot zero a range by itself, in bytes at a time.
const ZEROES: usize = 64 << 10;

/// An open disk, locked against other microVMs for as long as it lives.
#[derive(Debug)]
pub struct Disk {
    file: File,
    /// Device and number of the file.
    identity: (u64, u64),
    /// A multiple of the block size, in bytes.
    size: u64,
    read_only: bool,
    /// How the page cache is passed by, if it is.
    direct: Option<Direct>,
}

/// Why a disk could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenDiskError {
    /// There is nothing of that name.
    #[error("there is no disk {}: make one, for instance by `truncate -s 1G {}`", path.display(), path.display())]
    Missing {
        /// The name.
        path: PathBuf,
    },
    /// It is a directory.
    #[error("{} is a directory: give a file, or a block device, that holds the disk's bytes", path.display())]
    Directory {
        /// The name.
        path: PathBuf,
    },
    /// It is something that has no place for bytes: a socket, a pipe, a character device.
    #[error("{} is neither a file nor a block device", path.display())]
    NotADisk {
        /// The name.
        path: PathBuf,
    },
    /// This user may not, or the file system is mounted read-only.
    #[error("no permission to {} the disk {}", if *read_only { "read" } else { "write" }, path.display())]
    Permission {
        /// The name.
        path: PathBuf,
        /// It was only to be read.
        read_only: bool,
        /// What `open` returned.
        #[source]
        source: io::Error,
    },
    /// Somebody else has locked it, or this microVM was given it twice.
    #[error(
        "the disk {} is in use by another microVM, or by this one as another drive: give each its own copy, or all of \
         them read-only access",
        path.display()
    )]
    InUse {
        /// The name.
        path: PathBuf,
    },
    /// It has not even one block.
    #[error("the disk {} has {bytes} bytes: it takes at least {block}", path.display())]
    TooSmall {
        /// The name.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The size of a block.
        block: u32,
    },
    /// Its file system cannot pass the page cache by.
    #[error("{} cannot be opened with O_DIRECT: leave `direct` out, or put it on another file system", path.display())]
    NoDirect {
        /// The name.
        path: PathBuf,
        /// What `open` returned, if it was that.
        #[source]
        source: Option<io::Error>,
    },
    /// The kernel refused for another reason.
    #[error("cannot open the disk {}", path.display())]
    Host {
        /// The name.
        path: PathBuf,
        /// What the system call returned.
        #[source]
        source: io::Error,
    },
}

impl Disk {
    /// Opens and locks `path`: shared with other readers if it is `read_only`, for itself alone if not.
    ///
    /// # Errors
    /// [`OpenDiskError`].
    pub fn open(path: &Path, read_only: bool, direct: bool) -> Result<Self, OpenDiskError> {
        // Looked at first: to open a pipe or a terminal may do something.
        check_type(path, &path.metadata().map_err(|source| Self::refused(path, read_only, source))?)?;
        let mut flags = libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
        if direct {
            flags |= libc::O_DIRECT;
        }
        let opened = OpenOptions::new().read(true).write(!read_only).custom_flags(flags).open(path);
        let mut file = opened.map_err(|source| match source.raw_os_error() {
            Some(libc::EINVAL) if direct => {
                OpenDiskError::NoDirect { path: path.to_owned(), source: Some(source) }
            }
            _ => Self::refused(path, read_only, source),
        })?;
        let host = |source| OpenDiskError::Host { path: path.to_owned(), source };
        let metadata = file.metadata().map_err(host)?;
        check_type(path, &metadata)?;
        let locked = if read_only { file.try_lock_shared() } else { file.try_lock() };
        locked.map_err(|error| match error {
            TryLockError::WouldBlock => OpenDiskError::InUse { path: path.to_owned() },
            TryLockError::Error(source) => host(source),
        })?;
        // A block device's length is where its end is.
        let bytes = file.seek(SeekFrom::End(0)).map_err(host)?;
        let direct = direct.then(|| Direct::of(&file)).transpose().map_err(host)?;
        let block = direct.as_ref().map_or(SECTOR, Direct::block);
        let size = bytes - bytes % block;
        if size == 0 {
            let block = u32::try_from(block).unwrap_or(u32::MAX);
            return Err(OpenDiskError::TooSmall { path: path.to_owned(), bytes, block });
        }
        if block > 4096 {
            // No driver knows what to do with blocks larger than its pages.
            return Err(OpenDiskError::NoDirect { path: path.to_owned(), source: None });
        }
        if size < bytes {
            log::warn!("the guest does not see the last {} bytes of {}", bytes - size, path.display());
        }
        Ok(Self { file, identity: (metadata.dev(), metadata.ino()), size, read_only, direct })
    }

    /// Opens `path` in place of this disk. The same file may be opened again.
    ///
    /// # Errors
    /// [`OpenDiskError`]; the disk stays what it was then.
    pub(super) fn replace(
        &mut self,
        path: &Path,
        read_only: bool,
        direct: bool,
    ) -> Result<(), OpenDiskError> {
        let same = path.metadata().is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if !same {
            *self = Self::open(path, read_only, direct)?;
            return Ok(());
        }
        // Its lock is its own, and would be in its way.
        let host = |source| OpenDiskError::Host { path: path.to_owned(), source };
        self.file.unlock().map_err(host)?;
        let opened = Self::open(path, read_only, direct);
        match opened {
            Ok(disk) => *self = disk,
            Err(error) => {
                let locked = if self.read_only { self.file.try_lock_shared() } else { self.file.try_lock() };
                if let Err(error) = locked {
                    log::error!("the disk {} is no longer locked: {error}", path.display());
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// The bytes that the guest sees.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// What every offset and length should be a multiple of, in bytes.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        let block = self.direct.as_ref().map_or(SECTOR, Direct::block);
        u32::try_from(block).unwrap_or(u32::MAX)
    }

    /// Whether `len` bytes at `offset` are all on the disk.
    pub(super) fn check(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).filter(|end| *end <= self.size);
        end.map(|_| ()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Fills `buffers` from `offset`, in bytes.
    pub(super) fn read(
        &mut self,
        buffers: &mut WriteBuffers,
        offset: u64,
        memory: &Memory,
    ) -> io::Result<()> {
        match &mut self.direct {
            Some(direct) => direct.read(&self.file, buffers, offset, memory),
            None => buffers.read_from(self.file.as_fd(), offset),
        }
    }

    /// Writes what is in `buffers` to `offset`, in bytes.
    pub(super) fn write(
        &mut self,
        buffers: &mut ReadBuffers,
        offset: u64,
        memory: &Memory,
    ) -> io::Result<()> {
        self.check_writable()?;
        match &mut self.direct {
            Some(direct) => direct.write(&self.file, buffers, offset, memory),
            None => buffers.write_to(self.file.as_fd(), offset),
        }
    }

    /// Waits until what was written is on the host's disk.
    pub(super) fn flush(&self) -> io::Result<()> {
        if self.read_only { Ok(()) } else { self.file.sync_data() }
    }

    /// Gives the range back to the host's file system; it reads as zeros then, which `zeroes` insists on.
    pub(super) fn punch_hole(&self, offset: u64, len: u64, zeroes: bool) -> io::Result<()> {
        let punched = self.allocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE, offset, len);
        match punched {
            Err(error) if zeroes && error.kind() == io::ErrorKind::Unsupported => self.fill(offset, len),
            punched => punched,
        }
    }

    /// Writes zeros to the range, and keeps its blocks if the file system can.
    pub(super) fn write_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        match self.allocate(FallocateFlags::FALLOC_FL_ZERO_RANGE, offset, len) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.fill(offset, len),
            zeroed => zeroed,
        }
    }

    fn allocate(&self, what: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        self.check_writable()?;
        if len == 0 {
            return Ok(());
        }
        let number = |number| i64::try_from(number).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let flags = what | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(&self.file, flags, number(offset)?, number(len)?)?)
    }

    /// Writes zeros, a piece at a time.
    fn fill(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        if let Some(direct) = &self.direct {
            return direct.fill(&self.file, offset, len);
        }
        let zeroes = vec![0; ZEROES];
        while len > 0 {
            let piece = usize::try_from(len).unwrap_or(usize::MAX).min(ZEROES);
            self.file.write_all_at(zeroes.get(..piece).unwrap_or_default(), offset)?;
            offset += piece as u64;
            len -= piece as u64;
        }
        Ok(())
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    /// What an error of `open` or `stat` means to the user.
    fn refused(path: &Path, read_only: bool, source: io::Error) -> OpenDiskError {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => OpenDiskError::Missing { path },
            io::ErrorKind::IsADirectory => OpenDiskError::Directory { path },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                OpenDiskError::Permission { path, read_only, source }
            }
            _ => OpenDiskError::Host { path, source },
        }
    }
}

fn check_type(path: &Path, metadata: &Metadata) -> Result<(), OpenDiskError> {
    let path = || path.to_owned();
    match metadata.file_type() {
        kind if kind.is_dir() => Err(OpenDiskError::Directory { path: path() }),
        kind if kind.is_file() || kind.is_block_device() => Ok(()),
        _ => Err(OpenDiskError::NotADisk { path: path() }),
    }
}

#[cfg(test)]
mod tests;
