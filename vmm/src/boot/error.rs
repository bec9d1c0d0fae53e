//! Why a guest could not be booted: what is wrong with what was given, and what to do.

use std::{io, path::PathBuf};

use vm_memory::GuestMemoryError;

use super::ImageError;

/// Why a kernel could not be put into a guest's memory.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file could not be opened or read.
    #[error("cannot read the {what} {}", path.display())]
    Read {
        /// `kernel` or `initrd`.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is a folder, a pipe or a device.
    #[error("the {what} {} is not a regular file", path.display())]
    NotAFile {
        /// `kernel` or `initrd`.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
    },
    /// The kernel cannot be used.
    #[error("cannot boot {}", path.display())]
    Image {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        #[source]
        source: ImageError,
    },
    /// There is nothing in the initrd.
    #[error("the initrd {} is empty; leave --initrd out, or make it again", path.display())]
    InitrdEmpty {
        /// Where it is.
        path: PathBuf,
    },
    /// The initrd does not fit above the kernel.
    #[error(
        "the initrd {} has {len} bytes, and {room} bytes of RAM are left above the kernel; give the guest more with --mem",
        path.display()
    )]
    InitrdTooLarge {
        /// Where it is.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// Bytes between the end of the kernel and the end of low RAM, or of what the kernel can reach.
        room: u64,
    },
    /// The initrd became shorter while it was read.
    #[error("the initrd {} was cut short while it was read", path.display())]
    InitrdCut {
        /// Where it is.
        path: PathBuf,
    },
    /// The command line is longer than the kernel's.
    #[error("the command line has {len} bytes, and this kernel takes at most {most}; shorten --cmdline")]
    CommandLineTooLong {
        /// Its length in bytes, with what devices add.
        len: usize,
        /// How long it may be.
        most: usize,
    },
    /// The command line has characters that a kernel does not read.
    #[error("the command line may hold printable ASCII characters only; change --cmdline")]
    CommandLineCharacters,
    /// Not even the tables that every kernel needs fit.
    #[error("{ram} bytes of RAM are too few to boot anything; give the guest at least 2M with --mem")]
    RamTooSmall {
        /// Bytes below the hole.
        ram: u64,
    },
    /// More CPUs than the table has room for.
    #[error("{wanted} vCPUs are more than a guest can be told of: use at most {most}")]
    TooManyVcpus {
        /// How many were asked for.
        wanted: u32,
        /// How many there can be.
        most: u32,
    },
    /// The guest's memory could not be written.
    #[error("cannot write to the guest's memory")]
    Memory(#[from] GuestMemoryError),
}
