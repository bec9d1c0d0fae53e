//! What a disk is to be.

use std::path::PathBuf;

/// What a disk is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveConfig {
    /// Its name: what the guest reads as its serial number, as far as 20 bytes go.
    pub id: String,
    /// The file or block device of the host's.
    pub path: PathBuf,
    /// The guest can only read it, and the file is opened so.
    pub read_only: bool,
    /// Past the host's page cache (O_DIRECT).
    pub direct: bool,
    /// What a flush of the guest's does.
    pub cache: Cache,
}

/// What a flush of the guest's does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// It waits until the data is on the host's disk.
    #[default]
    Writeback,
    /// There is none: the guest is told that it needs none, and loses data if the host goes down.
    Unsafe,
}

impl DriveConfig {
    /// A disk that is written through the host's page cache.
    #[must_use]
    pub fn new(id: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { id: id.into(), path: path.into(), read_only: false, direct: false, cache: Cache::default() }
    }
}
