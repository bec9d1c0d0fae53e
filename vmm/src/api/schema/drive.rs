//! `/drives/{drive_id}`.

use std::{fs, os::unix::fs::FileTypeExt, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{RateLimiter, Refusals, Refused, check_id, rate_limiter};

/// The body of PUT /drives/{drive_id}.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Drive {
    /// Its name: that of the path.
    pub drive_id: String,
    /// The partition that is the root file system, if the drive is the root device.
    pub partuuid: Option<String>,
    /// Whether the guest is told to mount it as its root file system. It becomes the first drive.
    pub is_root_device: bool,
    /// Whether the guest's flushes reach the disk.
    #[serde(default)]
    pub cache_type: CacheType,
    /// Whether the guest may only read.
    pub is_read_only: Option<bool>,
    /// The file that holds it.
    pub path_on_host: Option<PathBuf>,
    /// Not to be had here.
    pub rate_limiter: Option<RateLimiter>,
    /// How the file is read and written.
    pub io_engine: Option<IoEngine>,
    /// Not to be had here: the socket of a vhost-user device.
    pub socket: Option<PathBuf>,
    /// Whether the page cache is passed by (O_DIRECT). A field of underlay's own.
    #[serde(default, skip_serializing_if = "is_false")]
    pub direct: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Whether the guest's flushes reach the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum CacheType {
    /// They do not: the guest is offered none.
    #[default]
    Unsafe,
    /// They do.
    Writeback,
}

/// How the file is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum IoEngine {
    /// One request after another.
    Sync,
    /// By io_uring.
    Async,
}

impl Drive {
    /// Whether the guest may only read.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.is_read_only.unwrap_or(false)
    }

    pub(crate) fn check(&self) -> Refusals {
        let mut wrong = Refusals::default();
        wrong.note(check_id("drive_id", &self.drive_id));
        if self.socket.is_some() {
            wrong.add("socket", "underlay has no vhost-user devices: use path_on_host");
        }
        wrong.note(rate_limiter::check("rate_limiter", self.rate_limiter.as_ref()));
        if self.io_engine == Some(IoEngine::Async) {
            wrong.add("io_engine", "underlay has \"Sync\" only");
        }
        match &self.path_on_host {
            Some(path) => wrong.note(check_path(path, self.is_read_only())),
            // Whoever gives a socket is told of it already.
            None if self.socket.is_some() => {}
            None => wrong.add("path_on_host", "is needed: the file that holds the drive"),
        }
        wrong
    }
}

/// The body of PATCH /drives/{drive_id}.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveUpdate {
    /// Its name: that of the path.
    pub drive_id: String,
    /// The file that holds it from now on; that which does already, opened again, if left out.
    pub path_on_host: Option<PathBuf>,
    /// Not to be had here.
    pub rate_limiter: Option<RateLimiter>,
}

impl DriveUpdate {
    pub(crate) fn check(&self) -> Result<(), Refused> {
        check_id("drive_id", &self.drive_id)?;
        rate_limiter::check("rate_limiter", self.rate_limiter.as_ref())?;
        self.path_on_host.as_ref().map_or(Ok(()), |path| check_path(path, true))
    }
}

/// Whether a file or block device at `path` can be opened.
fn check_path(path: &PathBuf, read_only: bool) -> Result<(), Refused> {
    let refused = |reason: &dyn std::fmt::Display| {
        Refused::new("path_on_host", format!("{}: {reason}", path.display()))
    };
    let kind = fs::metadata(path).map_err(|error| refused(&error))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(refused(&"is neither a regular file nor a block device"));
    }
    let opened = fs::OpenOptions::new().read(true).write(!read_only).open(path);
    opened.map(drop).map_err(|error| refused(&error))
}
